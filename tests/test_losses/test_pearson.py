"""PKD: equal to its formula, for pairs of any two host families."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kd_dense import MODELS, PearsonDistillation
from kd_dense.errors import SetupError
from kd_dense.losses import shared_levels, standardized_squared_error
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import OneStageView
from tests.helpers import segmentation
from tests.helpers.models import gfl, raw_batch
from tests.helpers.pairs import batch_for, build, noted
from tests.helpers.two_stage import faster_rcnn


def maps(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some(seed: int = 7) -> torch.Tensor:
    return torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) > 0.4


EVERYWHERE = torch.ones(2, 4, 5, dtype=torch.bool)


# -- the function ------------------------------------------------------------------------------


def test_it_is_one_minus_the_correlation_of_each_channel():
    s, t, mask = maps(0), maps(1), some()
    expected = 0.0
    for c in range(3):
        pair = torch.stack([s[:, c][mask], t[:, c][mask]])
        expected += (1 - torch.corrcoef(pair)[0, 1]) / 3
    torch.testing.assert_close(standardized_squared_error(s, t, mask), expected, rtol=1e-4, atol=0)


def test_it_does_not_mind_scale_and_offset_of_a_channel():
    scale, offset = torch.tensor([3.0, 0.5, 20.0]), torch.tensor([1.0, -7.0, 3.0])
    other = maps(0) * scale[:, None, None] + offset[:, None, None]
    assert standardized_squared_error(maps(0), other, some()).item() == pytest.approx(0, abs=1e-5)


def test_the_opposite_is_two():
    value = standardized_squared_error(maps(0), -maps(0), EVERYWHERE)
    assert value.item() == pytest.approx(2, rel=1e-4)


def test_over_the_whole_map_it_is_half_of_torchs_error_of_batch_normalised_features():
    s, t = (F.batch_norm(maps(i), None, None, training=True, eps=1e-6) for i in (0, 1))
    value = standardized_squared_error(maps(0), maps(1), EVERYWHERE)
    torch.testing.assert_close(value, 0.5 * F.mse_loss(s, t))


def test_gradients_are_those_of_finite_differences():
    s, t = maps(0, torch.float64).requires_grad_(), maps(1, torch.float64)
    assert torch.autograd.gradcheck(lambda x: standardized_squared_error(x, t, some()), s)


def test_the_teacher_gets_no_gradient_and_the_student_only_inside_the_mask():
    s, t = maps(0).requires_grad_(), maps(1).requires_grad_()
    standardized_squared_error(s, t, some()).backward()
    assert t.grad is None and (s.grad.abs().sum(dim=1) > 0).equal(some())


@pytest.mark.parametrize('mask', [~EVERYWHERE, EVERYWHERE])
def test_an_empty_mask_and_dead_channels_stay_finite(mask):
    s = (maps(0) * mask[:, None] * 0 + 4).requires_grad_()
    value = standardized_squared_error(s, maps(1), mask)
    value.backward()
    assert value.isfinite() and s.grad.isfinite().all()


@pytest.mark.parametrize('scale', [3e2, 3e-2, 3e-4, 3e-8])
def test_neither_sides_scale_matters(scale):
    s, small = maps(0).requires_grad_(), (maps(0) * scale).requires_grad_()
    expected = standardized_squared_error(s, maps(1), some())
    value = standardized_squared_error(small, maps(1) / scale, some())
    torch.testing.assert_close(value, expected)
    expected.backward()
    value.backward()
    torch.testing.assert_close(small.grad * scale, s.grad, rtol=1e-4, atol=1e-7)


def test_it_is_one_minus_pearsons_correlation():
    s, t = maps(0).movedim(1, 0).flatten(1), maps(1).movedim(1, 0).flatten(1)
    r = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s, t, strict=True)])
    value = standardized_squared_error(maps(0), maps(1), EVERYWHERE)
    torch.testing.assert_close(value, (1 - r).mean())


@pytest.mark.parametrize('level', [0.0, 4.0, 1234.567])
def test_a_constant_channel_counts_as_zero_and_gets_no_gradient(level):
    s = maps(0)
    s[:, 1] = level
    s.requires_grad_()
    value = standardized_squared_error(s, maps(1), EVERYWHERE)
    value.backward()
    assert (s.grad[:, 1] == 0).all() and s.grad[:, 0].abs().sum() > 0
    without = maps(0)[:, [0, 2]], maps(1)[:, [0, 2]]
    others = standardized_squared_error(*without, torch.ones(2, 4, 5, dtype=torch.bool))
    torch.testing.assert_close(value, (2 * others + 0.5) / 3)


def test_half_precision_is_computed_in_float32():
    s = (maps(0) * 100).bfloat16().requires_grad_()
    value = standardized_squared_error(s, maps(1).bfloat16(), some())
    value.backward()
    assert value.dtype == torch.float32 and s.grad.isfinite().all()


def test_features_of_different_shapes_are_refused():
    with pytest.raises(SetupError, match=r'\(2, 3, 4, 5\) from the student'):
        standardized_squared_error(maps(0), maps(1)[:, :2], some())


# -- which levels ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('ours', 'theirs', 'expected'),
    [
        ((8, 16, 32), (8, 16, 32), [(0, 0), (1, 1), (2, 2)]),
        ((4, 8, 8, 8), (4, 8, 8, 8), [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ((8, 16, 32, 64, 128), (4, 8, 16, 32, 64), [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ((4, 8, 8, 8), (4, 8, 16, 32), [(0, 0), (1, 1), (2, 2), (3, 3)]),  # one shared: by rank
        ((16,), (8, 16, 32), [(0, 1)]),
    ],
)
def test_levels_are_matched_by_their_strides(ours, theirs, expected):
    assert shared_levels(ours, theirs) == expected


def test_some_levels_can_be_chosen_and_no_shared_one_is_refused():
    assert shared_levels((8, 16, 32), (8, 16, 32), (0, -1)) == [(0, 0), (2, 2)]
    with pytest.raises(SetupError, match=r'strides are \(4, 8\) and \(16, 32, 64\)'):
        shared_levels((16, 32, 64), (4, 8))
    with pytest.raises(SetupError, match=r'levels=\(0,\)'):
        shared_levels((16, 8), (8,), (0,))


# -- the loss ----------------------------------------------------------------------------------


def test_the_loss_adds_the_levels_without_padding():
    student, teacher = build(gfl(), 0), build(gfl(), 1)
    batch = batch_for(student)
    ours, theirs = noted(student, batch), OneStageView(teacher, batch, torch.no_grad)
    loss = PearsonDistillation()
    loss.connect(student, FrozenTeacher.of(teacher))
    levels = zip(ours.features, theirs.features, ours.strides, strict=True)
    expected = sum(
        standardized_squared_error(s, t, batch.inside(s.shape[-2:], stride))
        for s, t, stride in levels
    )
    torch.testing.assert_close(loss(ours, theirs), expected)


@pytest.mark.parametrize(
    ('student', 'teacher', 'adapters'),
    [
        (gfl(), faster_rcnn(channels=32), 3),
        (faster_rcnn(), gfl(channels=32), 3),
        (segmentation.segmentor(), segmentation.segmentor(width=16, stride=32), 4),
        (segmentation.segmentor(stride=32), gfl(channels=20), 3),
    ],
    ids=['two-stage teaches one-stage', 'one-stage teaches two-stage', 'strides', 'detector'],
)
def test_any_two_families_share_features(student, teacher, adapters):
    config = dict(
        type='kd_dense.Distiller',
        student=student,
        teacher=dict(config=teacher, untrained=True, same_classes=False),
        losses=dict(pkd=dict(type='kd_dense.PearsonDistillation')),
    )
    model = MODELS.build(config)
    model.init_weights()
    raw = segmentation.raw_batch() if 'decode_head' in student else raw_batch()
    data = model.train().data_preprocessor(raw, True)
    logs = model(**data, mode='loss')
    logs['loss_kd_pkd'].backward()
    layers = model.losses['pkd'].adapters
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == adapters
    assert all(p.grad.abs().sum() > 0 for p in layers.parameters())
    assert next(model.student.backbone.parameters()).grad.abs().sum() > 0


def test_adapters_start_anew_and_are_there_for_equal_channels_where_asked_for():
    student, teacher = build(gfl(), 0), build(gfl(), 1)
    loss = PearsonDistillation(adapter='conv1x1', levels=(1,))
    loss.connect(student, FrozenTeacher.of(teacher))
    assert [type(layer) for layer in loss.adapters] == [nn.Conv2d]
    before = loss.adapters[0].weight.clone()
    torch.manual_seed(5)
    loss.init_weights()
    assert not loss.adapters[0].weight.equal(before)
