"""Channel-wise distillation: equal to its formula, for segmentors and for detectors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kd_dense import MODELS, ChannelWise
from kd_dense.errors import SetupError
from kd_dense.losses import channel_kl
from kd_dense.teachers import FrozenTeacher
from tests.helpers import pairs
from tests.helpers.models import gfl
from tests.helpers.segmentation import pair, segmentor, views


def maps(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some(seed: int = 7) -> torch.Tensor:
    return torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) > 0.4


def slow(s: torch.Tensor, t: torch.Tensor, valid: torch.Tensor, temperature: float) -> float:
    total = 0.0
    for n in range(len(s)):
        if not valid[n].any():
            continue
        for c in range(s.shape[1]):
            p = (t[n, c][valid[n]] / temperature).softmax(dim=0)
            q = (s[n, c][valid[n]] / temperature).softmax(dim=0)
            total += temperature**2 * (p * (p / q).log()).sum().item()
    return total


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_the_kl_equals_a_slow_loop(temperature):
    value = channel_kl(maps(0), maps(1), some(), temperature)
    assert value.item() == pytest.approx(slow(maps(0), maps(1), some(), temperature), rel=1e-4)


def test_the_kl_is_zero_at_equality_and_does_not_mind_a_constant():
    assert channel_kl(maps(0) + 5, maps(0), some(), 4.0).item() == pytest.approx(0, abs=1e-4)


def test_over_all_positions_it_is_torchs_kl():
    s, t = maps(0).flatten(2), maps(1).flatten(2)
    expected = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), log_target=True, reduction='sum')
    everywhere = torch.ones(2, 4, 5, dtype=torch.bool)
    torch.testing.assert_close(channel_kl(maps(0), maps(1), everywhere, 1.0), expected)


def test_gradients_are_those_of_finite_differences_also_of_images_without_a_valid_pixel():
    valid = some()
    valid[1] = False
    s, t = maps(0, torch.float64).requires_grad_(), maps(1, torch.float64)
    assert torch.autograd.gradcheck(lambda x: channel_kl(x, t, valid, 2.0), s)
    channel_kl(s, t, valid, 2.0).backward()
    assert (s.grad[1] == 0).all() and s.grad[0].abs().sum() > 0


def test_the_teacher_gets_no_gradient_and_the_student_none_where_a_position_is_not_valid():
    s, t = maps(0).requires_grad_(), maps(1).requires_grad_()
    channel_kl(s, t, some(), 4.0).backward()
    assert t.grad is None and (s.grad.abs().sum(dim=1) > 0).equal(some())


def test_large_half_precision_maps_stay_finite():
    s = (torch.sign(maps(0)) * 100).bfloat16().requires_grad_()
    value = channel_kl(s, -s.detach(), some(), 1.0)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and s.grad.isfinite().all()


def test_the_loss_on_logits_divides_by_images_and_classes():
    ours, theirs = views(*pair())
    s, t = ours.seg_logits, theirs.seg_logits
    valid = ours.valid_at(s.shape[-2:])
    value = ChannelWise()(ours, theirs)
    assert value.item() == pytest.approx(slow(s, t, valid, 4.0) / (2 * 3), rel=1e-4)
    ours.labels[1] = 255  # an image without a valid pixel is not counted
    del ours.valid_pixels
    one = slow(s[:1], t[:1], ours.valid_at(s.shape[-2:])[:1], 4.0) / 3
    assert ChannelWise()(ours, theirs).item() == pytest.approx(one, rel=1e-4)


def test_identical_predictions_give_zero():
    student, _ = pair()
    assert ChannelWise()(*views(student, student)).item() == pytest.approx(0, abs=1e-5)


def test_ignored_pixels_change_nothing():
    ours, theirs = views(*pair())
    before = ChannelWise()(ours, theirs)
    valid = ours.valid_at(ours.seg_logits.shape[-2:])[:, None]
    ours.seg_logits = torch.where(valid, ours.seg_logits, 50.0)
    torch.testing.assert_close(ChannelWise()(ours, theirs), before)


def test_features_of_other_channels_get_an_adapter_that_learns():
    student, teacher = pair(teacher=segmentor(width=16))
    loss = ChannelWise(stages=('head', 0, 'logits'))
    loss.connect(student, FrozenTeacher.of(teacher))
    assert [type(a) for a in loss.adapters] == [nn.Conv2d, nn.Conv2d, nn.Identity]
    loss(*views(student, teacher)).backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    assert student.backbone.layer1[0].conv1.weight.grad.abs().sum() > 0
    before = loss.adapters[0].weight.clone()
    torch.manual_seed(5)
    loss.init_weights()
    assert not loss.adapters[0].weight.equal(before)


def test_it_teaches_the_levels_of_a_detector():
    student, teacher = pairs.build(gfl(), 0), pairs.build(gfl(), 1)
    batch = pairs.batch_for(student)
    ours = pairs.noted(student, batch)
    theirs = type(ours)(teacher, batch, torch.no_grad)
    value = ChannelWise(stages=(0, 2), temperature=1)(ours, theirs)
    expected = 0.0
    for level in (0, 2):
        s, t = ours.features[level], theirs.features[level]
        valid = batch.inside(s.shape[-2:], ours.strides[level])
        expected += slow(s, t, valid, 1.0) / (len(s) * s.shape[1])
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_levels_stand_for_all_feature_maps_each_with_an_adapter():
    student, teacher = pairs.build(gfl(), 0), pairs.build(gfl(channels=32), 1)
    batch = pairs.batch_for(student)
    ours = pairs.noted(student, batch)
    theirs = type(ours)(teacher, batch, torch.no_grad)
    values = []
    for stages in (('levels',), (0, 1, 2)):
        loss = ChannelWise(stages=stages, temperature=1)
        loss.connect(student, FrozenTeacher.of(teacher))
        torch.manual_seed(0)
        loss.init_weights()
        assert [a.out_channels for a in loss.adapters] == [32] * 3
        values.append(loss(ours, theirs))
    assert values[0] > 0 and values[0].equal(values[1])


def test_logits_of_a_detector_are_refused():
    config = dict(
        type='kd_dense.Distiller',
        student=gfl(),
        teacher=dict(config=gfl(), untrained=True),
        losses=dict(cwd=dict(type='kd_dense.ChannelWise')),
    )
    with pytest.raises(
        SetupError,
        match=r'losses\.cwd: ChannelWise reads seg_logits, which kd_dense does not know of a GFL',
    ):
        MODELS.build(config).load_teacher()


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(temperature=-1), 'temperature is -1'),
        (dict(stages=()), 'stages is empty'),
        (dict(stages=('neck',)), "stage is 'neck'"),
        (dict(adapter='linear'), "adapter is 'linear'"),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        ChannelWise(**choice)
