"""Masks of proposals: the teacher draws them in the student's boxes."""

import copy
import math
import re

import pytest
import torch
from mmengine import dist

from kd_dense import MODELS, MaskDistillation
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.losses import mask_kl
from kd_dense.pair import unmet
from kd_dense.teachers import Ensemble, FrozenTeacher
from kd_dense.views import Masked, TwoStageView
from tests.helpers import pairs
from tests.helpers.models import gradients
from tests.helpers.pairs import BOXES, batch_for, raw
from tests.helpers.two_stage import (
    build,
    cascade_rcnn,
    faster_rcnn,
    hybrid_cascade,
    mask_rcnn,
    noted,
    with_masks,
)


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slow(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """KL of each pixel, one by one."""
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        p, q = (1 / (1 + math.exp(-x / temperature)) for x in (t, s))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return total * temperature**2


def seen(student: dict | None = None, boxes: tuple = BOXES) -> TwoStageView:
    """A student, whose own loss has run."""
    model = build(student or mask_rcnn())
    torch.manual_seed(0)
    return noted(model, with_masks(batch_for(model, boxes=boxes)))


def by(teacher: dict, student: TwoStageView) -> TwoStageView:
    """What a teacher shows to it, its masks far from their start."""
    model = build(teacher, seed=1)
    for name, parameter in model.named_parameters():
        if 'conv_logits' in name:
            torch.nn.init.normal_(parameter)
    return TwoStageView(model, student.batch, torch.no_grad, student)


# -- the formula -------------------------------------------------------------------------------


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_it_equals_a_slow_loop(temperature):
    s, t = logits(3, 4, 5), logits(3, 4, 5, seed=1)
    found = mask_kl(s, t, temperature).item()
    assert found == pytest.approx(slow(s, t, temperature), rel=1e-4)
    assert mask_kl(s, s, temperature) == 0


def test_masks_of_another_size_are_brought_to_the_students():
    s, t = logits(2, 4, 4), logits(2, 8, 8, seed=1)
    mean = t.reshape(2, 4, 2, 4, 2).mean(dim=(2, 4))  # linear, halved: of four pixels the mean
    torch.testing.assert_close(mask_kl(s, t), mask_kl(s, mean))


def test_gradients_extremes_half_precision_and_no_masks():
    s = logits(2, 3, 3, dtype=torch.float64).requires_grad_()
    t = logits(2, 3, 3, seed=1).requires_grad_()
    mask_kl(s, t).backward()
    expected = s.detach().sigmoid() - t.detach().sigmoid()
    torch.testing.assert_close(s.grad.float(), expected.float())
    assert t.grad is None
    for dtype in (torch.float16, torch.bfloat16):
        sure = torch.full((1, 2, 2), 100.0, dtype=dtype, requires_grad=True)
        value = mask_kl(sure, -sure)
        value.backward()
        assert value.dtype == torch.float32 and value.isfinite() and sure.grad.isfinite().all()
    nothing = torch.zeros(0, 4, 4, requires_grad=True)
    assert mask_kl(nothing, torch.zeros(0, 8, 8)).requires_grad


# -- what is compared --------------------------------------------------------------------------


def test_the_masks_of_the_own_classes_in_the_students_positive_boxes():
    student = seen()
    teacher = by(mask_rcnn(32), student)
    proposals, labels = student.masked
    assert torch.equal(proposals, student.proposals[student.roi_positives])
    assert torch.equal(labels, student.roi_targets.labels[student.roi_positives])
    assert len(labels) and not proposals.requires_grad
    total = 0.0
    for view in (student, teacher):
        with torch.no_grad():
            features = view.model.extract_feat(student.batch.images)
            drawn = view.model.roi_head._mask_forward(features, proposals)['mask_preds']
        expected = torch.stack([drawn[row, label] for row, label in enumerate(labels)])
        torch.testing.assert_close(view.mask_logits.detach(), expected, rtol=1e-4, atol=1e-5)
    total = slow(student.mask_logits, teacher.mask_logits, 2.0)
    value = MaskDistillation(temperature=2.0)(student, teacher)
    assert value.item() == pytest.approx(total / student.mask_logits.numel(), rel=1e-3)
    value.backward()
    reached = gradients(student.model)
    assert reached['roi_head.mask_head.conv_logits.weight'].any()
    assert reached['backbone.conv1.weight'].any()
    assert not gradients(teacher.model)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_head_that_draws_one_mask_for_all_classes_gives_that(side):
    agnostic = mask_rcnn(class_agnostic=True)
    student = seen(agnostic if side == 'student' else None)
    teacher = by(agnostic if side == 'teacher' else mask_rcnn(), student)
    view = student if side == 'student' else teacher
    assert view._mask_outputs.shape[1] == 1
    assert torch.equal(view.mask_logits, view._mask_outputs[:, 0])
    assert MaskDistillation()(student, teacher) > 0


def test_a_head_that_shares_the_pooled_features_of_the_boxes():
    config = mask_rcnn()
    del config['roi_head']['mask_roi_extractor']
    student = seen(config)
    assert student.model.roi_head.share_roi_extractor
    assert torch.equal(student.masked.proposals, student.proposals[student.roi_positives])
    again = TwoStageView(student.model, student.batch, torch.no_grad, student)
    torch.testing.assert_close(student.mask_logits.detach(), again.mask_logits)


def test_of_a_cascade_the_last_stage_draws_and_learns():
    student = seen()
    teacher = by(cascade_rcnn(mask_rcnn(32)), student)
    with torch.no_grad():
        features = teacher.model.extract_feat(student.batch.images)
        drawn = teacher.model.roi_head._mask_forward(1, features, student.masked.proposals)
    rows = torch.arange(len(student.masked.labels))
    expected = drawn['mask_preds'][rows, student.masked.labels]
    torch.testing.assert_close(teacher.mask_logits, expected, rtol=1e-4, atol=1e-5)
    taught = seen(cascade_rcnn(mask_rcnn()))
    MaskDistillation()(taught, by(mask_rcnn(), taught)).backward()
    reached = gradients(taught.model)
    assert reached['roi_head.mask_head.1.conv_logits.weight'].any()
    assert 'roi_head.mask_head.0.conv_logits.weight' not in reached


@pytest.mark.parametrize('boxes', [((), ()), ((), BOXES[1])])
def test_images_without_objects(boxes):
    student = seen(boxes=boxes)
    value = MaskDistillation()(student, by(mask_rcnn(), student))
    value.backward()
    assert value.isfinite() and (value > 0) == any(boxes)
    assert 'roi_head.mask_head.conv_logits.weight' in gradients(student.model)


def test_ranks_divide_by_the_masks_of_all(monkeypatch):
    student = seen()
    teacher = by(mask_rcnn(), student)
    alone = MaskDistillation()(student, teacher)
    monkeypatch.setattr(dist, 'is_distributed', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    # the other rank has as many masks and half of them again
    monkeypatch.setattr(dist, 'all_reduce', lambda count: count.mul_(2.5))
    torch.testing.assert_close(MaskDistillation()(student, teacher), alone * 2 / 2.5)


def test_a_mean_of_teachers_draws_the_mean():
    student = seen()
    models = [by(mask_rcnn(), student).model, build(mask_rcnn(32, class_agnostic=True), 2)]
    ensemble = Ensemble({str(i): FrozenTeacher.of(m, fast=False) for i, m in enumerate(models)})
    ensemble.load(student.model)
    each = [TwoStageView(m, student.batch, torch.no_grad, student) for m in models]
    mean = sum(view.mask_logits.sigmoid() for view in each) / 2
    found = ensemble.view(student.batch, student).mask_logits
    torch.testing.assert_close(found.sigmoid(), mean)


def test_a_teacher_of_larger_images_draws_in_larger_boxes():
    student = seen()
    teacher = FrozenTeacher.of(by(mask_rcnn(), student).model, fast=False, scale=2)
    teacher.load(student.model)
    view = teacher.view(student.batch, student)
    large = TwoStageView(teacher.model, view.larger.batch, torch.no_grad, student)
    boxes = student.masked.proposals * torch.tensor([1.0, 2, 2, 2, 2])
    large.masked = Masked(boxes, student.masked.labels)
    torch.testing.assert_close(view.mask_logits, large.mask_logits)


# -- in a training -----------------------------------------------------------------------------


def distiller(weight: float, **more: object) -> dict:
    loss = dict(type='kd_dense.MaskDistillation', weight=weight)
    teacher = dict(config=cascade_rcnn(mask_rcnn(32)), untrained=True)
    return dict(
        type='kd_dense.Distiller', student=mask_rcnn(), teacher=teacher, losses=dict(mask=loss),
        **more,
    )  # fmt: skip


def step(model, seed: int = 0) -> dict:
    torch.manual_seed(seed)
    data = raw(seed=seed)
    with_masks(Raw(data['data_samples']))
    data = model.data_preprocessor(data, True)
    total, logs = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    return logs


class Raw:
    """Samples as a batch."""

    def __init__(self, samples: list) -> None:
        self.samples = samples


def test_a_weight_of_zero_trains_the_plain_student_and_another_adds_to_it():
    torch.manual_seed(0)
    plain = build_model(read_model_config(mask_rcnn(), 'student'))
    plain.init_weights()
    step(plain.train())
    found = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = MODELS.build(copy.deepcopy(distiller(weight)))
        model.init_weights()
        logs = step(model.train())
        found[weight] = {n.removeprefix('student.'): g for n, g in gradients(model).items()}
        assert (logs['loss_kd_mask'] > 0) == bool(weight)
    assert found[0.0].keys() == gradients(plain).keys()
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradient, found[0.0][name]), name
    name = 'roi_head.mask_head.conv_logits.weight'
    assert not torch.equal(found[0.0][name], found[1.0][name])


# -- refusals ----------------------------------------------------------------------------------


def scoring() -> dict:
    """A Mask Scoring R-CNN."""
    config = mask_rcnn()
    config['type'] = 'MaskScoringRCNN'
    config['roi_head'].update(
        type='MaskScoringRoIHead',
        mask_iou_head=dict(
            type='MaskIoUHead', num_convs=1, num_fcs=1, roi_feat_size=5, in_channels=16,
            conv_out_channels=8, fc_out_channels=8, num_classes=3,
        ),
    )  # fmt: skip
    return config


@pytest.mark.parametrize(
    ('student', 'why'),
    [
        (faster_rcnn, 'masks that Mask R-CNN and Cascade Mask R-CNN draw .* with no masks. Losses'),
        (scoring, 'a MaskScoringRCNN with masks as MaskScoringRoIHead draws them. Losses on feat'),
        (hybrid_cascade, 'reads mask_logits, which kd_dense does not know of a HybridTaskCascade'),
        (pairs.gfl, 'reads mask_logits, which kd_dense does not know of a GFL'),
    ],
)
def test_students_of_other_masks_are_refused_with_what_works(student, why):
    (found,) = unmet(build_model(read_model_config(student(), 'student')), 'm', MaskDistillation())
    assert re.search(why, found)


@pytest.mark.parametrize(
    ('teacher', 'why'),
    [
        (faster_rcnn(), r'masks of proposals: the teacher has none, the student one of each'),
        (scoring(), r'the teacher has those of a MaskScoringRoIHead, the student one of each'),
        (pairs.gfl(), r'host family: the teacher has one-stage, the student two-stage'),
    ],
)
def test_teachers_of_other_masks_are_refused(teacher, why):
    with pytest.raises(SetupError, match=why):
        pairs.check_models(build(mask_rcnn()), build(teacher), dict(mask=MaskDistillation()))


def test_a_temperature_is_positive():
    with pytest.raises(SetupError, match='temperature is 0'):
        MaskDistillation(temperature=0)
