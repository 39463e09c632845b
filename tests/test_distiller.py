"""The unit of student, teacher and losses: its promises."""

import copy

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import get_state_dict
from torch import nn

from kd_dense import MODELS, DistillationLoss, Distiller
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model
from kd_dense.registry import MODELS as KD_MODELS
from tests.helpers.models import FLOAT16, distiller, gfl, gradients, losses, raw_batch


def build(**changes) -> Distiller:
    torch.manual_seed(0)
    model = MODELS.build(distiller(**changes))
    model.init_weights()
    return model.train()


def step(model, batch, lr=0.01):
    """One training step that keeps the gradients; returns what mmengine logs."""
    model.zero_grad()
    total, logs = model.parse_losses(
        model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    )
    total.backward()
    torch.optim.SGD(model.parameters(), lr=lr).step()
    return {name: value.detach() for name, value in logs.items()}


def teacher_calls(model: Distiller) -> list[str]:
    """Note each part of the teacher that runs from now on."""
    calls = []
    for name in ('backbone', 'bbox_head.gfl_reg', 'bbox_head.gfl_cls'):
        part = model.teacher.model.get_submodule(name)
        part.register_forward_hook(lambda *_, name=name: calls.append(name.split('.')[-1]))
    return calls


# -- promise 1: neutral ------------------------------------------------------------------------


def test_weights_of_zero_train_the_student_as_it_would_without_us():
    torch.manual_seed(0)
    plain = build_model(gfl())
    plain.init_weights()
    plain.train()
    distilled = build(losses=losses(ld=0, vlr=0, cls=0, imitation=0))
    for seed in range(3):
        batch = raw_batch(seed=seed)
        step(plain, batch)
        logs = step(distilled, batch)
        assert len(gradients(plain)) == len(list(plain.parameters()))
        for name, gradient in gradients(plain).items():
            assert torch.equal(gradient, gradients(distilled.student)[name]), name
    assert logs['loss_kd_ld'] == 0
    for name, value in plain.state_dict().items():
        assert torch.equal(value, distilled.student.state_dict()[name]), name


def test_building_and_loading_a_teacher_leaves_the_random_state_alone():
    torch.manual_seed(0)
    build_model(gfl()).init_weights()
    expected = torch.rand(3)
    build()
    assert torch.equal(torch.rand(3), expected)


def test_weights_above_zero_change_the_students_gradients():
    batch = raw_batch()
    off, on = build(losses=losses(ld=0)), build(losses=losses(ld=1))
    step(off, batch), step(on, batch)
    name = 'bbox_head.gfl_reg.weight'
    assert not torch.equal(gradients(off.student)[name], gradients(on.student)[name])
    cls_branch = 'bbox_head.gfl_cls.weight'  # the class scores only weight LD: no gradient
    assert torch.equal(gradients(off.student)[cls_branch], gradients(on.student)[cls_branch])


# -- promise 2: frozen teacher -----------------------------------------------------------------


def test_teacher_stays_in_eval_without_gradients_whatever_train_is_called_on():
    model = build(teacher=dict(config=gfl(channels=32), untrained=True, fast=False))
    before = copy.deepcopy(model.teacher.model.state_dict())
    model.train()
    step(model, raw_batch())
    assert not any(m.training for m in model.teacher.model.modules())
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.model.parameters())
    for name, value in model.teacher.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_teacher_is_in_no_state_dict_optimizer_or_module_tree():
    model = build()
    theirs = {id(t) for t in model.teacher.model.state_dict(keep_vars=True).values()}
    assert not theirs & {id(p) for p in model.parameters()}
    for state in (model.state_dict(keep_vars=True), get_state_dict(model, keep_vars=True)):
        assert not theirs & {id(t) for t in state.values()}
        assert {k.split('.')[0] for k in state} == {'student', 'losses'}
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
    held = {id(p) for g in wrapper.param_groups for p in g['params']}
    assert held == {id(p) for p in model.parameters()}
    assert {id(p) for p in model.losses['imitation'].parameters()} <= held


def test_averaged_copies_share_the_teacher():
    model = build()
    averaged = ExponentialMovingAverage(model)
    assert averaged.module.teacher is model.teacher
    assert averaged.module.student is not model.student


def test_dropout_and_drop_path_of_the_teacher_are_off():
    teacher = gfl(channels=32)
    teacher['backbone']['plugins'] = None
    model = build(teacher=dict(config=teacher, untrained=True))
    model.teacher.model.backbone.add_module('extra', nn.Dropout(0.5).eval())
    model.train()
    assert not model.teacher.model.backbone.extra.training


# -- promise 5: plain student ------------------------------------------------------------------


def test_a_plain_student_checkpoint_serves_to_start_from():
    model = build()
    torch.manual_seed(1)
    plain = build_model(gfl())
    plain.init_weights()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith('losses.') for name in missing)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[name]), name


def test_its_own_checkpoint_loads_completely():
    model, other = build(), build()
    step(model, raw_batch())
    other.load_state_dict(model.state_dict(), strict=True)


def test_a_checkpoint_of_something_else_is_refused():
    with pytest.raises(SetupError, match=r'fits no weight of the student \(GFL\).*fc.weight'):
        build().load_state_dict({'fc.weight': torch.zeros(2)}, strict=False)


# -- laziness: as deep as it is read -----------------------------------------------------------


@pytest.mark.parametrize(
    ('names', 'parts'),
    [
        ({'ld': 0.0, 'imitation': 0.0}, []),
        ({'imitation': 1.0, 'ld': 0.0}, ['backbone']),
        ({'ld': 1.0, 'vlr': 1.0}, ['backbone', *['gfl_reg'] * 3]),
        (
            {'ld': 1.0, 'vlr': 1.0, 'cls': 1.0, 'imitation': 1.0},
            ['backbone', *['gfl_reg'] * 3, *['gfl_cls'] * 3],
        ),
    ],
)
def test_teacher_runs_once_and_only_as_deep_as_it_is_read(names, parts):
    model = build(losses=losses(**names))
    calls = teacher_calls(model)
    step(model, raw_batch())
    assert calls == parts


def test_predicting_builds_no_teacher():
    torch.manual_seed(0)
    config = distiller(teacher=dict(config='gone.py', checkpoint='gone.pth'), losses=losses(ld=1))
    model = MODELS.build(config).eval()
    batch = model.data_preprocessor(raw_batch(), False)
    assert len(model(**batch, mode='predict')) == 2
    assert not model.teacher.loaded
    with pytest.raises(FileNotFoundError, match=r'config of the teacher was not found: gone\.py'):
        model.init_weights()


# -- what losses get, and what comes out -------------------------------------------------------


@KD_MODELS.register_module()
class CapturingLoss(DistillationLoss):
    """Notes what it is given."""

    reads = ('features', 'cls_logits', 'box_logits', 'assignment')

    def forward(self, student, teacher):
        self.seen = (student, teacher)
        return student.features[0].sum() * 0 + 2.0


def test_losses_receive_both_views_and_the_weight_multiplies_once():
    model = build(losses=dict(spy=dict(type='kd_dense.CapturingLoss', weight=3.0)))
    data = model.data_preprocessor(raw_batch(), True)
    out = model(**data, mode='loss')
    assert out['loss_kd_spy'].item() == 6.0
    student, teacher = model.losses['spy'].seen
    assert [tuple(f.shape[-2:]) for f in student.features] == [(16, 20), (8, 10), (4, 5)]
    assert student.features[0].requires_grad and not teacher.features[0].requires_grad
    assert student.cls_logits[0].shape == teacher.cls_logits[0].shape
    assert student.assignment.labels.shape == student.valid.shape == (2, 420)
    expected = model.student.bbox_head(student.features)
    assert torch.equal(student.box_logits[1], expected[1][1])


def test_the_students_own_losses_are_its_own():
    torch.manual_seed(0)
    plain = build_model(gfl())
    plain.init_weights()
    plain.train()
    model = build()
    data = model.data_preprocessor(raw_batch(), True)
    ours, theirs = model(**data, mode='loss'), plain(**data, mode='loss')
    for name, value in theirs.items():
        assert all(torch.equal(a, b) for a, b in zip(ours[name], value, strict=True)), name
    assert set(ours) - set(theirs) == {f'loss_kd_{name}' for name in losses()}


def test_notes_are_removed_from_the_student_also_after_an_error():
    model = build()
    data = model.data_preprocessor(raw_batch(), True)
    model(**data, mode='loss')
    head = model.student.bbox_head
    assert 'get_targets' not in vars(head) and not head._forward_hooks
    with pytest.raises(AttributeError):
        model(data['inputs'], [None, None], mode='loss')
    assert 'get_targets' not in vars(head) and not head._forward_hooks


# -- promise 8 and 9: edges and half precision -------------------------------------------------


@pytest.mark.parametrize('boxes', [(0, 0), (0, 2)])
def test_images_without_objects_give_finite_losses_with_gradients(boxes):
    everywhere = dict(
        losses(),
        **{
            region: dict(type='kd_dense.FeatureImitation', region=region)
            for region in ('all', 'box', 'fine_grained', 'vlr', 'general')
        },
        soft=dict(type='kd_dense.SoftTargets', region='all'),
    )
    model = build(losses=everywhere)
    logs = step(model, raw_batch(boxes))
    assert all(torch.isfinite(torch.as_tensor(v)) for v in logs.values())
    assert all(torch.isfinite(g).all() for g in gradients(model).values())
    assert len(gradients(model)) == len(list(model.parameters()))


def test_autocast_computes_the_losses_in_float32():
    model = build()
    data = model.data_preprocessor(raw_batch(), True)
    full = model(**data, mode='loss')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = model(**data, mode='loss')
    for name in losses():
        value = half[f'loss_kd_{name}']
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, full[f'loss_kd_{name}'], rtol=0.1, atol=1e-3)


@pytest.mark.parametrize('dtype', ['bfloat16', FLOAT16])
def test_a_half_precision_teacher_teaches_nearly_the_same(dtype):
    data = raw_batch()
    full, half = (
        build(teacher=dict(config=gfl(channels=32), untrained=True, dtype=d))
        for d in ('float32', dtype)
    )
    a, b = step(full, data), step(half, data)
    for name in losses():
        torch.testing.assert_close(b[f'loss_kd_{name}'], a[f'loss_kd_{name}'], rtol=0.05, atol=1e-4)


# -- errors ------------------------------------------------------------------------------------


def test_class_names_of_the_training_set_are_compared_before_the_first_step():
    model = build()
    model.teacher.classes = ('cat', 'dog', 'bird')
    hub = MessageHub.get_current_instance()
    hub.update_info('dataset_meta', dict(classes=('cat', 'bird', 'dog')))
    try:
        with pytest.raises(SetupError, match=r'class 1 is .*same_classes=False'):
            step(model, raw_batch())
    finally:
        hub.update_info('dataset_meta', {})


def test_a_loss_that_is_none_of_ours_is_refused():
    with pytest.raises(SetupError, match=r'losses\.x is a GIoULoss, which is no distillation loss'):
        build(losses=dict(x=dict(type='mmdet.GIoULoss')))


def test_levels_that_differ_in_number_are_refused_when_building():
    teacher = gfl(channels=32)
    teacher['neck']['num_outs'] = 4
    teacher['bbox_head']['anchor_generator']['strides'] = [8, 16, 32, 64]
    with pytest.raises(SetupError, match='teacher has 4 feature levels'):
        build(teacher=dict(config=teacher, untrained=True), losses=losses(imitation=1))
