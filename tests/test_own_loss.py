"""A student that trains without its own loss, in part, or with a share of it."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS, DistillationLoss, Distiller
from kd_dense.check import examine
from kd_dense.errors import SetupError
from kd_dense.hooks.loss_balance import measure_distiller
from kd_dense.hosts import build_model
from kd_dense.registry import MODELS as KD_MODELS
from kd_dense.views import Batch, view_class
from tests.helpers import segmentation, two_stage
from tests.helpers.models import distiller, gfl, gradients, losses, raw_batch
from tests.helpers.trainings import base_config, train_apart

HINT = dict(hint=dict(type='kd_dense.FeatureImitation', weight=1.0))
LOWER = ('backbone', 'neck')


def build(config: dict | None = None, **changes) -> Distiller:
    torch.manual_seed(0)
    model = MODELS.build(config or distiller(**changes))
    model.init_weights()
    return model.train()


def hint(**changes) -> Distiller:
    return build(**(dict(own_loss=False, trains=LOWER, losses=HINT) | changes))


def optimizer(model: Distiller):
    return build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.5)))


def unlabelled(data: dict) -> dict:
    """The same images, with samples that say nothing but the size."""
    samples = [DetDataSample(metainfo=sample.metainfo) for sample in data['data_samples']]
    return dict(data, data_samples=samples)


def count(module: torch.nn.Module) -> list[str]:
    """Note each run of a module from now on."""
    calls: list[str] = []
    module.register_forward_hook(lambda *_: calls.append(type(module).__name__))
    return calls


# -- without the own loss ------------------------------------------------------------------------


def test_the_head_and_its_statistics_stay_bit_for_bit_and_all_below_trains():
    model = hint()
    before = copy.deepcopy(model.student.state_dict())
    wrapper = optimizer(model)
    for seed in range(2):
        logs = model.train_step(raw_batch(seed=seed), wrapper)
    assert set(logs) == {'loss', 'loss_kd_hint'}
    for name, value in model.student.state_dict().items():
        head = name.startswith('bbox_head')
        assert torch.equal(value, before[name]) == head, name


def test_gradients_of_the_lower_part_equal_a_written_out_loop():
    model = hint(losses=dict(hint=dict(type='kd_dense.FeatureImitation', weight=0.5)))
    teacher = build_model(gfl(channels=32)).eval()
    teacher.load_state_dict(model.teacher.model.state_dict(), strict=False)
    plain, adapters = copy.deepcopy(model.student), copy.deepcopy(model.losses['hint'].adapters)
    data = model.data_preprocessor(raw_batch(), True)
    model(**data, mode='loss')['loss_kd_hint'].backward()

    ours = plain.extract_feat(data['inputs'])
    theirs = [f.detach() for f in model.teacher.model.extract_feat(data['inputs'])]
    total, number = 0.0, 0
    for level, stride in enumerate((8, 16, 32)):
        mapped = adapters[level](ours[level])
        for image, sample in enumerate(data['data_samples']):
            height, width = sample.metainfo['img_shape'][:2]
            for y in range(mapped.shape[-2]):
                for x in range(mapped.shape[-1]):
                    if y * stride < height and x * stride < width:
                        at = (image, slice(None), y, x)
                        total = total + 0.5 * (mapped[at] - theirs[level][at]).square().sum()
                        number += mapped.shape[1]
    (total / number).backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(model.student)[name], gradient, rtol=1e-4, atol=1e-6)
    assert {n for n in gradients(plain)} == set(gradients(model.student))
    assert gradients(model.student) and not any('head' in n for n in gradients(model.student))


def test_neither_head_runs_and_both_backbones_run_once():
    model = hint()
    calls = [
        count(each)
        for both in (model.student, model.teacher.model)
        for each in (both.backbone, both.bbox_head)
    ]
    model(**model.data_preprocessor(raw_batch(), True), mode='loss')
    assert [len(each) for each in calls] == [1, 0, 1, 0]


@pytest.mark.parametrize('strip', [unlabelled, lambda data: dict(data, data_samples=None)])
def test_images_without_labels_train_as_those_with_labels_do(strip):
    model = hint()
    data = model.data_preprocessor(raw_batch(), True)
    if strip is not unlabelled:  # nothing tells of the padding either: images of one size
        data['data_samples'] = [
            DetDataSample(metainfo=dict(img_shape=data['inputs'].shape[-2:]))
        ] * 2
    with_labels = model(**data, mode='loss')['loss_kd_hint']
    without = model(**strip(data), mode='loss')['loss_kd_hint']
    torch.testing.assert_close(without, with_labels, rtol=0, atol=0)
    without.backward()
    assert model.student.backbone.conv1.weight.grad.abs().sum() > 0


def test_a_segmentor_needs_no_label_pictures():
    losses = dict(
        hint=dict(type='kd_dense.FeatureImitation'), pixel=dict(type='kd_dense.PixelWise')
    )
    trains = ('backbone', 'decode_head')
    model = build(segmentation.distiller(losses, own_loss=False, trains=trains))
    data = model.data_preprocessor(segmentation.raw_batch(), True)
    before = {n: b.clone() for n, b in model.student.auxiliary_head.named_buffers()}
    for sample in data['data_samples']:
        del sample.gt_sem_seg
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    got = set(gradients(model.student))
    assert {n.split('.')[0] for n in got} == {'backbone', 'decode_head'}
    assert all(torch.equal(b, before[n]) for n, b in model.student.auxiliary_head.named_buffers())


def test_autocast_reaches_the_student_that_losses_run():
    data = None
    dtypes = []
    for amp in (False, True):
        model = hint()
        model.student.neck.register_forward_hook(lambda *a: dtypes.append(a[-1][0].dtype))
        data = data or model.data_preprocessor(raw_batch(), True)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=amp):
            value = model(**data, mode='loss')['loss_kd_hint']
        assert value.dtype == torch.float32
    assert dtypes == [torch.float32, torch.bfloat16]


@KD_MODELS.register_module()
class LazyReader(DistillationLoss):
    """Reads of the student more than it says."""

    def forward(self, student, teacher):
        self.seen = student.cls_logits[0]
        return torch.stack([level.float().square().mean() for level in student.cls_logits]).sum()


def test_what_a_loss_reads_unannounced_is_computed_in_the_precision_of_the_training_too():
    model = build(
        own_loss=False,
        losses=dict(lazy=dict(type='kd_dense.LazyReader')),
        trains=('backbone', 'neck', 'bbox_head.cls_convs', 'bbox_head.gfl_cls'),
    )
    with torch.autocast('cpu', dtype=torch.bfloat16):
        model(**model.data_preprocessor(raw_batch(), True), mode='loss')
    assert model.losses['lazy'].seen.dtype == torch.bfloat16


def test_a_loss_that_a_schedule_has_stopped_leaves_a_zero_with_gradients():
    model = hint()
    model.losses['hint'].factor = 0.0
    value = model(**model.data_preprocessor(raw_batch(), True), mode='loss')['loss_kd_hint']
    value.backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert value == 0 and set(gradients(model)) == trained


def test_a_loss_that_is_not_finite_leaves_a_zero_with_gradients():
    model = hint()
    model.losses['hint'].weight = 1e38
    model.teacher.load(model.student)
    with torch.no_grad():
        model.losses['hint'].adapters[0].weight.fill_(1e30)
    value = model(**model.data_preprocessor(raw_batch(), True), mode='loss')['loss_kd_hint']
    value.backward()
    assert value == 0 and all((g == 0).all() for g in gradients(model.student).values())


def test_the_balance_of_losses_is_measured_without_the_own_one():
    model = hint()
    assert set(measure_distiller(model, raw_batch())) == {'hint'}


def test_a_student_that_only_predicts_is_the_plain_one():
    model = hint().eval()
    data = model.data_preprocessor(raw_batch(), False)
    found = model(**copy.deepcopy(data), mode='predict')
    expected = model.student(**data, mode='predict')
    assert torch.equal(found[0].pred_instances.scores, expected[0].pred_instances.scores)


# -- the guided layer ----------------------------------------------------------------------------


def test_a_hint_in_the_middle_of_the_backbone_trains_what_is_below_and_runs_no_more():
    middle = dict(type='kd_dense.FeatureImitation', stage='backbone.1', weight=1.0)
    lower = [f'backbone.{name}' for name in ('conv1', 'bn1', 'layer1', 'layer2')]
    model = hint(
        losses=dict(hint=middle),
        trains=lower,
        teacher=dict(config=gfl(base=16), untrained=True, fast=False),
    )
    necks = [count(each.neck) for each in (model.student, model.teacher.model)]
    data = model.data_preprocessor(raw_batch(), True)
    value = model(**data, mode='loss')['loss_kd_hint']
    ours = model.student.backbone(data['inputs'])[1]
    theirs = model.teacher.model.backbone(data['inputs'])[1]
    assert (ours.shape[1], theirs.shape[1]) == (16, 32)
    total, number = 0.0, 0
    for image, sample in enumerate(data['data_samples']):
        height, width = (-(-size // 8) for size in sample.metainfo['img_shape'][:2])
        mapped = model.losses['hint'].adapters[0](ours[image])[:, :height, :width]
        total = total + (mapped - theirs[image][:, :height, :width]).square().sum()
        number += mapped.numel()
    torch.testing.assert_close(value, total / number)
    value.backward()
    assert necks == [[], []]
    assert all(any(n.startswith(f'{part}.') for part in lower) for n in gradients(model.student))


def test_a_regressor_may_be_a_convolution_of_three_with_batch_norm_and_relu():
    adapter = dict(kernel=3, norm=True, relu=True)
    loss = dict(type='kd_dense.FeatureImitation', stage='backbone.2', adapter=adapter)
    model = build(losses=dict(hint=loss))
    layers = model.losses['hint'].adapters[0]
    assert [type(each).__name__ for each in layers] == ['Conv2d', 'BatchNorm2d', 'ReLU']
    model(**model.data_preprocessor(raw_batch(), True), mode='loss')['loss_kd_hint'].backward()
    assert layers[0].weight.grad.abs().sum() > 0


def test_the_backbone_runs_once_whatever_is_read_first():
    losses = dict(
        middle=dict(type='kd_dense.ChannelWise', stages=('backbone.3', 0)),
        last=dict(type='kd_dense.FeatureImitation'),
    )
    model = hint(losses=losses)
    calls = [count(each.backbone.conv1) for each in (model.student, model.teacher.model)]
    data = model.data_preprocessor(raw_batch(), True)
    model(**data, mode='loss')
    assert [len(each) for each in calls] == [1, 1]
    view = view_class(model.student)(model.student, Batch(data['inputs'], data['data_samples']))
    assert len(view.backbone_features) == 4 and len(view.features) == 3
    assert len(calls[0]) == 2
    again = model.student.eval().extract_feat(data['inputs'])
    view = view_class(model.student)(model.student, Batch(data['inputs'], data['data_samples']))
    assert torch.equal(view.backbone_features[1], model.student.backbone(data['inputs'])[1])
    assert all(map(torch.equal, view.features, again))


def test_a_backbone_that_was_noted_is_the_one_of_the_own_loss():
    model = build(losses=dict(m=dict(type='kd_dense.PairWise', stage='backbone.3')))
    calls = count(model.student.backbone)
    model(**model.data_preprocessor(raw_batch(), True), mode='loss')
    assert len(calls) == 1 and 'forward' not in vars(model.student.backbone)


@pytest.mark.parametrize(
    ('stage', 'message'),
    [
        ('backbone.7', r"no stage 'backbone\.7'; it has 4, backbone\.0 to backbone\.3"),
        ('middle', r"stage is 'middle'; it must be the index of a feature map, 'backbone\.INDEX'"),
        ('head', 'reads head_features, which kd_dense does not know of a GFL'),
    ],
)
def test_a_stage_that_is_not_there_is_refused(stage, message):
    with pytest.raises(SetupError, match=message):
        hint(losses=dict(hint=dict(type='kd_dense.FeatureImitation', stage=stage)))


def test_one_map_knows_no_region():
    with pytest.raises(SetupError, match=r"region 'box' is one of all feature levels"):
        hint(losses=dict(hint=dict(HINT['hint'], stage='backbone.2', region='box')))


# -- in part -------------------------------------------------------------------------------------


def test_with_its_own_loss_a_part_trains_as_it_does_with_all_the_rest_at_rest():
    model = build(trains=('bbox_head',), losses=losses(ld=0.25))
    before = copy.deepcopy(model.student.state_dict())
    model.train_step(raw_batch(), optimizer(model))
    for name, value in model.student.state_dict().items():
        if 'integral' not in name:  # a constant
            assert torch.equal(value, before[name]) != name.startswith('bbox_head.'), name


def test_what_does_not_train_is_frozen_before_an_optimizer_is_built():
    model = hint(trains='backbone.layer1')
    assert {n for n, p in model.student.named_parameters() if p.requires_grad} == {
        n for n, _ in model.student.named_parameters() if n.startswith('backbone.layer1.')
    }
    assert not model.student.backbone.bn1.training and model.student.backbone.layer1[0].bn1.training


# -- a share of the own loss ---------------------------------------------------------------------


def test_own_weight_multiplies_the_students_losses_in_what_is_trained_and_logged():
    data = raw_batch()
    whole, share = (build(own_weight=w, losses=losses(ld=0)) for w in (1.0, 0.25))
    logs = []
    for model in (whole, share):
        total, values = model.parse_losses(
            model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss')
        )
        total.backward()
        logs.append(values)
    for name in ('loss', 'loss_cls', 'loss_bbox', 'loss_dfl'):
        torch.testing.assert_close(logs[1][name], logs[0][name] * 0.25)
    for name, gradient in gradients(whole.student).items():
        torch.testing.assert_close(gradients(share.student)[name], gradient * 0.25)


def test_the_classic_mixture_of_hinton():
    """(1 - alpha) own + alpha T^2 soft, with alpha 0.9 and T 4."""
    soft = dict(pixel=dict(type='kd_dense.PixelWise', temperature=4, weight=0.9))
    config = segmentation.distiller(soft, own_weight=0.1)
    model = build(config)
    plain = copy.deepcopy(model.student)
    data = model.data_preprocessor(segmentation.raw_batch(), True)
    out = model(**data, mode='loss')
    own = plain(**data, mode='loss')
    for name, value in own.items():
        share = 0.1 if 'loss' in name else 1.0
        torch.testing.assert_close(out[name], value * share)


def test_a_mixture_counts_the_own_loss_as_it_is_trained():
    mixed = dict(cls=dict(type='kd_dense.ClassWeightedSoftCrossEntropy', part='roi', mu=0.5))
    values = {}
    for weight in (1.0, 0.5):
        model = build(two_stage.distiller(losses=mixed, own_weight=weight))
        data = model.data_preprocessor(raw_batch(), True)
        torch.manual_seed(1)
        values[weight] = model(**data, mode='loss')
    own = values[1.0]['loss_cls']
    # mu * w * hard + (1 - mu) * soft
    difference = values[0.5]['loss_kd_cls'] - values[1.0]['loss_kd_cls']
    torch.testing.assert_close(difference, 0.5 * 0.5 * own)


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(own_loss='no'), "own_loss is 'no'"),
        (dict(own_weight=-1), 'own_weight is -1'),
        (dict(own_weight=True), 'own_weight is True'),
        (dict(own_loss=False, own_weight=0.5), 'own_loss=False` turns off'),
        (dict(own_loss=False, losses={}), 'nothing to train by'),
        (dict(trains=('backbon',)), r"'backbone', 'neck', 'bbox_head'.*Did you mean 'backbone'"),
        (dict(trains=()), 'leaves nothing of the student to train'),
    ],
)
def test_what_makes_no_sense_is_refused_when_building(changes, message):
    with pytest.raises(SetupError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ('loss', 'what'),
    [
        (dict(type='kd_dense.FeatureImitation', region='box'), 'the annotated boxes'),
        (dict(type='kd_dense.LocalizationDistillation'), 'the labels that the own loss assigns'),
    ],
)
def test_losses_that_need_labels_are_refused_by_name(loss, what):
    model = hint(losses=dict(x=loss))
    with pytest.raises(SetupError, match=rf'losses\.x \(.*{what} are not known.*own_weight=0'):
        model(**model.data_preprocessor(raw_batch(), True), mode='loss')


def test_losses_on_proposals_are_refused_by_name():
    soft = dict(cls=dict(type='kd_dense.DecoupledTargets'))
    model = build(two_stage.distiller(losses=soft, own_loss=False))
    with pytest.raises(
        SetupError, match=r'losses\.cls .*the labels of the proposals are not known'
    ):
        model(**model.data_preprocessor(raw_batch(), True), mode='loss')


def test_what_would_train_and_gets_no_gradient_is_named():
    model = hint(trains=None)
    with pytest.raises(SetupError, match=r'nothing trains bbox_head of the student.*trains=\('):
        model(**model.data_preprocessor(raw_batch(), True), mode='loss')


# -- the tools -----------------------------------------------------------------------------------


@pytest.fixture
def without_labels(digits_root, tmp_path) -> Config:
    """The config of a hint stage on images of which only the file is known."""
    root = tmp_path / 'unlabelled'
    shutil.copytree(digits_root, root)
    for file in (root / 'annotations').glob('train*.json'):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | dict(annotations=[])))
    config = base_config(root, tmp_path / 'work')
    config['model'] = distiller(
        student=gfl(num_classes=10),
        teacher=dict(config=gfl(channels=32, num_classes=10), untrained=True),
        own_loss=False,
        trains=LOWER,
        losses=HINT,
    )
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        config.pop(key)
    config['train_cfg']['max_iters'] = 2
    config['train_cfg'].pop('val_interval')
    return Config(config)


def test_the_check_finds_nothing_wrong_with_images_that_nobody_labelled(without_labels):
    report = examine(without_labels, 'hint.py', steps=1)
    report.refuse()
    text = report.as_table()
    assert 'annotation' not in ' '.join(
        each.problem for part in report.sections for each in part.findings()
    )
    assert 'losses.hint' in text and 'the student alone' not in text


def test_images_that_nobody_labelled_train_by_the_command(without_labels):
    done = train_apart(without_labels)
    assert done.returncode == 0, done.stderr[-2000:]
    state = torch.load(Path(without_labels.work_dir, 'iter_2.pth'), weights_only=False)
    assert any(name.startswith('losses.hint.adapters') for name in state['state_dict'])
