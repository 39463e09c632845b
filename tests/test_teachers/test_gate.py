"""The gated mean of students that train together: on-the-fly native ensemble."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS
from kd_dense.errors import SetupError
from tests.helpers import pairs, segmentation, two_stage
from tests.helpers.models import gfl, gradients, raw_batch

STAGES = ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3')
TRUNK = tuple(f'backbone.{name}' for name in STAGES)
OPTIMIZER = dict(
    constructor='kd_dense.LiveOptimWrapperConstructor', optimizer=dict(type='SGD', lr=0.01)
)
SOFT = dict(type='kd_dense.SoftTargets', region='main', temperature=3)


def one(gate=None, student=None, soft=None, shares=TRUNK, names=('student', 'b', 'c'), **more):
    torch.manual_seed(0)
    student = student or gfl()
    model = MODELS.build(
        dict(
            type='kd_dense.Distiller',
            student=student,
            peers={n: dict(model=student, shares=shares) for n in names[1:]},
            teachers=dict(
                all=dict(dict(type='kd_dense.Gate', of=names, at='backbone.2'), **(gate or {}))
            ),
            losses={f'to_{n}': dict(soft or SOFT, student=n, teacher='all') for n in names},
            **more,
        )
    )
    model.init_weights()
    return model.train()


def loss_of(model, batch=None):
    return model(**model.data_preprocessor(batch or raw_batch(), True), mode='loss')


def test_shares_sum_to_1_and_the_mean_is_theirs():
    model = one()
    gate = model.teachers['all']
    seen = {}
    view, shares = gate.view, gate.shares

    def keep(*a):
        seen['mixed'], seen['passes'] = view(*a), [model.live[n].own_pass for n in gate.of]
        seen['share'] = shares(seen['passes'][0])
        return seen['mixed']

    gate.view = keep
    loss_of(model)
    share = seen['share']
    assert share.shape == (2, 3)
    torch.testing.assert_close(share.sum(dim=1), torch.ones(2))
    for level, mixed in enumerate(seen['mixed'].cls_logits):
        assert not mixed.requires_grad
        for image in range(2):
            expected = sum(
                share[image, i] * each.cls_logits[level][image]
                for i, each in enumerate(seen['passes'])
            )
            torch.testing.assert_close(mixed[image], expected)


def test_what_is_made_of_predictions_is_made_of_the_mixed_ones():
    model = one()
    gate = model.teachers['all']
    view, seen = gate.view, {}

    def keep(*a):
        first = model.live['student'].own_pass
        _ = first.decoded_boxes, first.flat_cls_logits  # known of the student already
        seen['mixed'] = view(*a)
        return seen['mixed']

    gate.view = keep
    loss_of(model)
    mixed = seen['mixed']
    flat = [level.permute(0, 2, 3, 1).flatten(1, 2) for level in mixed.cls_logits]
    torch.testing.assert_close(mixed.flat_cls_logits, torch.cat(flat, dim=1))
    torch.testing.assert_close(mixed.decoded_boxes, mixed.decode(mixed.flat_box_logits))
    flat = [level.permute(0, 2, 3, 1).flatten(1, 2) for level in mixed.box_logits]
    torch.testing.assert_close(mixed.flat_box_logits, torch.cat(flat, dim=1))


def test_a_gate_that_is_open_for_one_has_its_loss():
    model = one()
    gate = model.teachers['all'].module
    with torch.no_grad():
        gate.weight.zero_()
        gate.bias.copy_(torch.tensor([100.0, 0, 0]))
    losses = loss_of(model)
    for part in ('cls', 'bbox', 'dfl'):
        own = losses[f'loss_{part}']
        own = sum(each.mean() for each in own) if isinstance(own, list) else own
        torch.testing.assert_close(losses[f'loss_all_{part}'], own, rtol=1e-5, atol=1e-6)
    assert float(losses['loss_kd_to_student'].detach()) == pytest.approx(0, abs=1e-6)
    assert float(losses['loss_kd_to_b'].detach()) > 0


def test_what_is_learned_from_the_mean_gives_no_gradient_to_gate_and_others():
    model = one(gate=dict(task_weight=0))
    model.own_weight = 0.0
    for peer in model.peers.all():
        peer.weight = 0.0
    for name in ('to_student', 'to_c'):
        model.losses[name].weight = 0.0
    model.parse_losses(loss_of(model))[0].backward()
    moved = {name for name, gradient in gradients(model).items() if gradient.any()}
    assert any(name.startswith('peers.b.') for name in moved)
    assert all(
        name.startswith(('peers.b.', *(f'student.{part}' for part in TRUNK))) for name in moved
    )


def test_the_means_own_loss_trains_the_gate_and_all_branches():
    model = one(soft=dict(SOFT, weight=0))
    wrapper = build_optim_wrapper(model, copy.deepcopy(OPTIMIZER))
    before = copy.deepcopy(model.state_dict())
    logs = model.train_step(raw_batch(), wrapper)
    assert {'loss_all_cls', 'loss_all_bbox', 'loss_all_dfl', 'b.loss_cls'} <= set(logs)
    now = model.state_dict()
    head = 'bbox_head.gfl_cls.weight'
    for name in (
        'teacher_modules.all.weight', f'student.{head}', f'peers.b.model.{head}',
    ):  # fmt: skip
        assert not torch.equal(now[name], before[name]), name


def test_boxes_are_learned_from_the_mean_distribution():
    model = one(soft=dict(type='kd_dense.LocalizationDistillation', region='main'))
    assert float(loss_of(model)['loss_kd_to_b'].detach()) > 0


def test_segmentors_have_one_too():
    student = segmentation.segmentor()
    trunk = [f'backbone.{name}' for name in ('stem', *STAGES[3:])]
    model = one(student=student, soft=dict(type='kd_dense.PixelWise'), shares=trunk)
    logs = model.train_step(
        segmentation.raw_batch(), build_optim_wrapper(model, copy.deepcopy(OPTIMIZER))
    )
    assert logs['loss_all_ce'] > 0 and logs['loss_kd_to_c'] > 0


WRONG = {
    "of 'd', which is no model that trains": dict(gate=dict(of=('student', 'd'))),
    'at least two models': dict(gate=dict(of=('student',))),
    'a FCOSHead predicts more than these': dict(student=pairs.fcos(), shares=TRUNK),
    'mixes what one-stage detectors and segmentors': dict(student=two_stage.faster_rcnn()),
    'mixes predictions and no features': dict(soft=dict(type='kd_dense.FeatureImitation')),
    'task_weight is -1': dict(gate=dict(task_weight=-1)),
}


@pytest.mark.parametrize('words', WRONG)
def test_what_is_wrong_is_said(words):
    with pytest.raises(SetupError) as told:
        loss_of(one(**WRONG[words]))
    assert words in str(told.value)
