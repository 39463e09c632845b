"""What stands in for the teacher's distribution, and the forms of published code."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine import dist

from kd_dense import PixelWise, SoftTargets
from kd_dense.errors import SetupError
from kd_dense.losses import confidence_weighted, permuted_logits, sigmoid_kl, softmax_kl
from tests.helpers import pairs, segmentation
from tests.helpers.pairs import pair


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- permuted ------------------------------------------------------------------------------------


def test_the_largest_stays_and_the_others_change_places():
    t = logits(200, 5)
    found = permuted_logits(t)
    assert torch.equal(found.argmax(1), t.argmax(1))
    assert torch.equal(found.amax(1), t.amax(1))
    assert torch.equal(found.sort(dim=1).values, t.sort(dim=1).values)
    moved = (found != t).any(dim=1).float().mean()
    assert 0.9 < moved < 1  # one of the 24 orders of four is the one that was


def test_every_order_of_the_others_comes_up_equally_often():
    torch.manual_seed(0)
    found = permuted_logits(torch.tensor([0.0, 9.0, 1.0, 2.0]).repeat(6000, 1))
    for order in itertools.permutations([0.0, 1.0, 2.0]):
        same = (found[:, [0, 2, 3]] == torch.tensor(order)).all(dim=1)
        assert int(same.sum()) == pytest.approx(1000, abs=120)


def test_maps_of_any_shape_and_one_or_two_classes():
    for shape in ((2, 3, 4, 5), (3, 1), (3, 2)):
        t = logits(*shape)
        found = permuted_logits(t)
        assert found.shape == t.shape
        assert shape[-1] > 2 or torch.equal(found, t)


def test_the_students_random_numbers_stay_as_they_are():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    permuted_logits(logits(3, 4))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_soft_targets_compare_with_the_permuted_scores(activation):
    ours, theirs = pair()
    loss = SoftTargets(region='main', activation=activation, temperature=2, targets='permuted')
    torch.manual_seed(3)
    value = loss(ours, theirs)
    mask = ours.positives & ours.valid
    s, t = ours.flat_cls_logits[mask], theirs.flat_cls_logits[mask]
    torch.manual_seed(3)
    t = permuted_logits(t)
    kl = softmax_kl(s, t, 2.0) if activation == 'softmax' else sigmoid_kl(s, t, 2.0).sum(1)
    torch.testing.assert_close(value, kl.sum() / mask.sum())
    assert not torch.allclose(value, SoftTargets(
        region='main', activation=activation, temperature=2)(ours, theirs))  # fmt: skip


@pytest.mark.parametrize('variant', ['paper', 'reference'])
def test_pixels_compare_with_the_permuted_scores(variant):
    ours, theirs = segmentation.views(*segmentation.pair())
    torch.manual_seed(3)
    value = PixelWise(targets='permuted', variant=variant)(ours, theirs)
    torch.manual_seed(3)
    theirs.seg_logits = permuted_logits(theirs.seg_logits.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(value, PixelWise(variant=variant)(ours, theirs))


# -- confidence ----------------------------------------------------------------------------------


def test_a_literal():
    # weights 3/4 and 1/2 become 3/5 and 2/5; errors ln 2 and ln 4
    s = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    t = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    value = confidence_weighted(s, t, torch.tensor([1, 1]))
    assert value.item() == pytest.approx(0.6 * math.log(2) + 0.4 * math.log(4))


def test_independent_classes_equal_a_loop():
    s, t, labels = logits(4, 3), logits(4, 3, seed=1), torch.tensor([0, 2, 1, 1])
    total, mass = 0.0, 0.0
    for i in range(4):
        weight = max(1 / (1 + math.exp(-x)) for x in t[i].tolist())
        for c in range(3):
            p = 1 / (1 + math.exp(-s[i, c].item()))
            total -= weight * math.log(p if c == labels[i] else 1 - p)
        mass += weight
    value = confidence_weighted(s, t, labels, softmax=False)
    assert value.item() == pytest.approx(total / mass, rel=1e-5)


def test_equally_sure_of_all_it_is_the_mean_cross_entropy():
    s, labels = logits(5, 4), torch.tensor([0, 1, 2, 3, 0])
    t = torch.eye(4)[[1, 1, 2, 0, 3]] * 5
    expected = F.cross_entropy(s, labels)
    torch.testing.assert_close(confidence_weighted(s, t, labels), expected)


def test_weights_add_up_to_one_over_the_ranks(monkeypatch):
    s, t, labels = logits(6, 3), logits(6, 3, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])
    whole = confidence_weighted(s, t, labels)
    mass = t.softmax(1).amax(1).sum()
    monkeypatch.setattr(dist, 'is_distributed', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    monkeypatch.setattr(dist, 'all_reduce', lambda total: total.copy_(mass))
    halves = [confidence_weighted(s[i::2], t[i::2], labels[i::2]) for i in range(2)]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_positives_are_weighted_by_how_sure_the_teacher_is():
    ours, theirs = pair()
    value = SoftTargets(region='main', targets='confidence')(ours, theirs)
    mask = ours.positives & ours.valid
    expected = confidence_weighted(
        ours.flat_cls_logits[mask],
        theirs.flat_cls_logits[mask],
        ours.assignment.labels[mask],
        softmax=False,
    )
    torch.testing.assert_close(value, expected)
    value.backward()
    assert ours.model.bbox_head.gfl_cls.weight.grad.abs().sum() > 0


def test_pixels_are_weighted_by_how_sure_the_teacher_is():
    ours, theirs = segmentation.views(*segmentation.pair())
    value = PixelWise(targets='confidence')(ours, theirs)
    stride = ours.labels.shape[-1] // ours.seg_logits.shape[-1]
    total, mass = 0.0, 0.0
    for n, y, x in itertools.product(*map(range, ours.seg_logits[:, 0].shape)):
        label = ours.labels[n, y * stride + stride // 2, x * stride + stride // 2]
        if label != 255:
            weight = theirs.seg_logits[n, :, y, x].softmax(0).max()
            total = total + weight * F.cross_entropy(ours.seg_logits[n, :, y, x], label)
            mass = mass + weight
    torch.testing.assert_close(value, total / mass)


def test_images_without_objects_give_zero():
    ours, theirs = pair(boxes=((), ()))
    value = SoftTargets(region='main', targets='confidence')(ours, theirs)
    value.backward()
    assert value.item() == 0


@pytest.mark.parametrize(
    ('kind', 'choice', 'message'),
    [
        (SoftTargets, dict(targets='labels'), "'teacher', 'permuted', 'confidence'"),
        (SoftTargets, dict(targets='confidence'), r"set `region='main'`"),
        (PixelWise, dict(targets='confidence', temperature=2), 'no temperature'),
        (PixelWise, dict(targets='confidence', variant='reference'), 'no reference'),
        (PixelWise, dict(over_classes='max'), "'sum', 'mean'"),
    ],
)
def test_what_makes_no_sense_is_refused_when_building(kind, choice, message):
    with pytest.raises(SetupError, match=message):
        kind(**choice)


# -- as published code has it --------------------------------------------------------------------


def test_soft_targets_without_the_square_of_the_temperature():
    """As in Morikawa's code: KL at T = 10, a mean over the batch, and nothing else."""
    ours, theirs = segmentation.views(*segmentation.pair())
    ours.labels = torch.zeros_like(ours.labels)  # all pixels count
    value = PixelWise(temperature=10, scale_by_temperature=False)(ours, theirs)
    inside = ours.valid_at(ours.seg_logits.shape[-2:])
    s, t = (v.seg_logits.movedim(1, -1)[inside] / 10 for v in (ours, theirs))
    expected = F.kl_div(s.log_softmax(1), t.softmax(1), reduction='batchmean')
    torch.testing.assert_close(value, expected)


def test_a_mean_over_the_classes_too():
    """As in the code of teacher assistants: the mean of torch's kl_div is one over N * K."""
    ours, theirs = segmentation.views(*segmentation.pair())
    value = PixelWise(temperature=3, over_classes='mean')(ours, theirs)
    inside = ours.valid_at(ours.seg_logits.shape[-2:])
    s, t = (v.seg_logits.movedim(1, -1)[inside] / 3 for v in (ours, theirs))
    expected = 9 * F.kl_div(s.log_softmax(1), t.softmax(1), reduction='mean')
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(value * 3, PixelWise(temperature=3)(ours, theirs))


@pytest.mark.parametrize('config', [pairs.gfl, pairs.retina])
def test_of_detectors_too(config):
    ours, theirs = pair(config())
    scaled = SoftTargets(temperature=4)(ours, theirs)
    plain = SoftTargets(temperature=4, scale_by_temperature=False)(ours, theirs)
    torch.testing.assert_close(plain * 16, scaled)
