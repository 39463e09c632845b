"""Pixel-wise distillation: equal to its formula, without ignored pixels."""

import pytest
import torch
import torch.nn.functional as F

from kd_dense import PixelWise
from kd_dense.errors import SetupError
from kd_dense.losses import pixel_cross_entropy, pixel_kl, standardized
from kd_dense.pair import unmet
from tests.helpers.segmentation import pair, segmentor, views

N, K, H, W = 2, 3, 4, 5


def logits(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(N, K, H, W, generator=torch.Generator().manual_seed(seed)).to(dtype) * 2


def some(seed: int = 7) -> torch.Tensor:
    return torch.rand(N, H, W, generator=torch.Generator().manual_seed(seed)) > 0.5


# -- the functions -----------------------------------------------------------------------------


def test_the_kl_is_zero_at_equality():
    assert pixel_kl(logits(0), logits(0), some()).item() == pytest.approx(0, abs=1e-6)


def test_a_literal():
    s, t = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    t[0, 0, 0, 0] = torch.log(torch.tensor(3.0))  # the teacher says 3/4, 1/4
    valid = torch.tensor([[[True, False]]])
    expected = 0.75 * torch.log(torch.tensor(1.5)) + 0.25 * torch.log(torch.tensor(0.5))
    torch.testing.assert_close(pixel_kl(s, t, valid), expected)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_the_kl_equals_a_slow_loop(temperature):
    s, t, valid = logits(0), logits(1), some()
    expected = 0.0
    for n, y, x in valid.nonzero().tolist():
        p = torch.exp(t[n, :, y, x] / temperature)
        q = torch.exp(s[n, :, y, x] / temperature)
        p, q = p / p.sum(), q / q.sum()
        expected += temperature**2 * sum(p[c] * torch.log(p[c] / q[c]) for c in range(K))
    torch.testing.assert_close(pixel_kl(s, t, valid, temperature), expected)


def test_the_published_cross_entropy_is_the_kl_and_the_teachers_entropy_over_one_images_pixels():
    s, t = logits(0), logits(1)
    entropy = torch.distributions.Categorical(logits=t.movedim(1, -1)).entropy().sum()
    everywhere = torch.ones(N, H, W, dtype=torch.bool)
    expected = (pixel_kl(s, t, everywhere) + entropy) / (H * W)
    torch.testing.assert_close(pixel_cross_entropy(s, t), expected)
    hard = t.movedim(1, -1) * 0
    hard[..., 1] = 1e4
    torch.testing.assert_close(
        pixel_cross_entropy(s, hard.movedim(-1, 1)),
        F.cross_entropy(s, torch.ones(N, H, W, dtype=torch.long), reduction='sum') / (H * W),
    )


def test_gradients_are_those_of_finite_differences():
    s, t = logits(0, torch.float64).requires_grad_(), logits(1, torch.float64)
    assert torch.autograd.gradcheck(lambda x: pixel_kl(x, t, some(), 2.0), s)


def test_the_teacher_gets_no_gradient_and_the_student_none_where_a_pixel_is_not_valid():
    s, t = logits(0).requires_grad_(), logits(1).requires_grad_()
    pixel_kl(s, t, some()).backward()
    assert t.grad is None
    assert (s.grad.abs().sum(dim=1) > 0).equal(some())


def test_non_contiguous_logits_give_the_same():
    s, t = (logits(i).to(memory_format=torch.channels_last) for i in (0, 1))
    torch.testing.assert_close(pixel_kl(s, t, some()), pixel_kl(logits(0), logits(1), some()))


def test_large_and_half_precision_logits_stay_finite():
    s = (torch.sign(logits(0)) * 100).bfloat16().requires_grad_()
    value = pixel_kl(s, -s.detach(), some())
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and s.grad.isfinite().all()


def test_logits_of_different_shapes_are_refused():
    with pytest.raises(SetupError, match=r'\(2, 3, 4, 5\) from the student'):
        pixel_kl(logits(0), logits(1)[:, :2], some())


# -- the loss ----------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_the_valid_pixels_of_the_map():
    ours, theirs = views(*pair())
    value = PixelWise(temperature=2)(ours, theirs)
    s, t = ours.seg_logits, theirs.seg_logits
    stride = ours.batch.images.shape[-1] // s.shape[-1]
    total, count = 0.0, 0
    for n in range(len(s)):
        for y in range(s.shape[-2]):
            for x in range(s.shape[-1]):
                centre = (n, y * stride + stride // 2, x * stride + stride // 2)
                if ours.labels[centre] != 255:
                    total += F.kl_div(
                        (s[n, :, y, x] / 2).log_softmax(0),
                        (t[n, :, y, x] / 2).softmax(0),
                        reduction='sum',
                    )
                    count += 1
    assert 0 < count < s[:, 0].numel()
    torch.testing.assert_close(value, total * 4 / count)


@pytest.mark.parametrize('part', ['decode', 'auxiliary'])
def test_the_logits_of_each_pixel_are_standardized_where_asked_to(part):
    ours, theirs = views(*pair())
    s, t = (view.seg_logits if part == 'decode' else view.aux_logits[0] for view in (ours, theirs))
    valid = ours.valid_at(s.shape[-2:])
    value = PixelWise(part=part, standardize=True)(ours, theirs)
    expected = pixel_kl(standardized(s, dim=1), standardized(t, dim=1), valid) / valid.sum()
    torch.testing.assert_close(value, expected)
    assert not torch.isclose(value, PixelWise(part=part)(ours, theirs))


def test_two_classes_cannot_be_standardized():
    student, _ = pair()
    assert unmet(student, 'pixel', PixelWise(standardize=True)) == []
    student, _ = pair(segmentor(classes=2))
    assert 'leaves nothing of 2 scores' in unmet(student, 'pixel', PixelWise(standardize=True))[0]


def test_the_auxiliary_heads_are_taught_by_theirs():
    ours, theirs = views(*pair())
    value = PixelWise(part='auxiliary')(ours, theirs)
    valid = ours.valid_at(ours.aux_logits[0].shape[-2:])
    expected = pixel_kl(ours.aux_logits[0], theirs.aux_logits[0], valid) / valid.sum()
    torch.testing.assert_close(value, expected)


def test_identical_predictions_give_zero():
    student, _ = pair()
    ours, theirs = views(student, student)
    assert PixelWise()(ours, theirs).item() == pytest.approx(0, abs=1e-6)


def test_ignored_pixels_and_padding_change_nothing():
    ours, theirs = views(*pair())
    before = PixelWise()(ours, theirs)
    valid = ours.valid_at(ours.seg_logits.shape[-2:])[:, None]
    ours.seg_logits = torch.where(valid, ours.seg_logits, 50.0)
    theirs.seg_logits = torch.where(valid, theirs.seg_logits, -torch.arange(3.0)[:, None, None])
    torch.testing.assert_close(PixelWise()(ours, theirs), before)


def test_a_batch_without_a_valid_pixel_gives_zero_that_back_propagates():
    ours, theirs = views(*pair())
    ours.labels = torch.full_like(ours.labels, 255)
    value = PixelWise()(ours, theirs)
    value.backward()
    gradients = [p.grad for p in ours.model.decode_head.parameters() if p.grad is not None]
    assert value.item() == 0 and all((g == 0).all() for g in gradients)


def test_a_teacher_of_another_output_stride_is_brought_to_the_students_size():
    ours, theirs = views(*pair(teacher=segmentor(stride=16)))
    size = ours.seg_logits.shape[-2:]
    assert theirs.seg_logits.shape[-1] * 2 == size[-1]
    larger = F.interpolate(theirs.seg_logits, size, mode='bilinear')
    valid = ours.valid_at(size)
    expected = pixel_kl(ours.seg_logits, larger, valid) / valid.sum()
    torch.testing.assert_close(PixelWise()(ours, theirs), expected)


def test_the_published_variant_counts_all_pixels_and_no_images():
    ours, theirs = views(*pair())
    torch.testing.assert_close(
        PixelWise(variant='reference')(ours, theirs),
        pixel_cross_entropy(ours.seg_logits, theirs.seg_logits),
    )


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(temperature=0), 'temperature is 0'),
        (dict(part='rpn'), "'decode', 'auxiliary'"),
        (dict(variant='published'), "'paper', 'reference'"),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        PixelWise(**choice)
