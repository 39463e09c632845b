"""Pair-wise distillation: affinities of nodes, equal to their formula."""

import pytest
import torch
import torch.nn.functional as F

from kd_dense import PairWise
from kd_dense.errors import SetupError
from kd_dense.losses import affinity, pool_nodes
from tests.helpers.segmentation import pair, segmentor, views


def features(seed: int = 0, size: tuple[int, int] = (5, 7)) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def slow_nodes(maps: torch.Tensor, valid: torch.Tensor, scale: float) -> list[list]:
    """Per image: one vector per patch, None where it has no valid position."""
    h, w = (max(1, int(n * scale)) for n in maps.shape[-2:])
    images = []
    for image, mask in zip(maps, valid, strict=True):
        nodes = []
        for y in range(0, maps.shape[-2], h):
            for x in range(0, maps.shape[-1], w):
                inside = mask[y : y + h, x : x + w]
                patch = image[:, y : y + h, x : x + w][:, inside]
                nodes.append(patch.amax(dim=1) if inside.any() else None)
        images.append(nodes)
    return images


def slow_loss(ours: torch.Tensor, theirs: torch.Tensor, valid: torch.Tensor, scale: float) -> float:
    total, pairs = 0.0, 0
    for s, t in zip(slow_nodes(ours, valid, scale), slow_nodes(theirs, valid, scale), strict=True):
        for i in range(len(s)):
            for j in range(len(s)):
                if s[i] is not None and s[j] is not None:
                    a = F.cosine_similarity(s[i], s[j], dim=0)
                    b = F.cosine_similarity(t[i], t[j], dim=0)
                    total += (a - b).item() ** 2
                    pairs += 1
    return total / pairs


@pytest.mark.parametrize('scale', [0.01, 0.3, 0.5, 1.0])
def test_nodes_are_the_maxima_of_patches_without_what_is_not_valid(scale):
    valid = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(3)) > 0.3
    valid[1, :3, :4] = False
    nodes, counted = pool_nodes(features(), valid, scale)
    for image, expected in enumerate(slow_nodes(features(), valid, scale)):
        assert counted[image].tolist() == [node is not None for node in expected]
        for index, node in enumerate(expected):
            found = nodes[image, :, index]
            assert (found == 0).all() if node is None else found.equal(node)


def test_the_published_patches_make_three_by_three_nodes_of_65_by_65():
    nodes, counted = pool_nodes(torch.zeros(1, 2, 65, 65), torch.ones(1, 65, 65).bool(), 0.5)
    assert nodes.shape == (1, 2, 9) and counted.all()


def test_a_literal():
    nodes = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 2.0, 3.0]]])
    half = 0.5**0.5
    expected = torch.tensor([[[1.0, 0.0, half], [0.0, 1.0, half], [half, half, 1.0]]])
    torch.testing.assert_close(affinity(nodes), expected)


def test_the_affinity_does_not_mind_the_size_of_features_and_stands_nodes_of_zeros():
    nodes = features().flatten(2)
    torch.testing.assert_close(affinity(nodes * 1e3), affinity(nodes))
    zero = torch.zeros(1, 3, 4, requires_grad=True)
    affinity(zero).sum().backward()
    assert zero.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    nodes = features().flatten(2)[:, :, :4].double().requires_grad_()
    assert torch.autograd.gradcheck(affinity, nodes)


@pytest.mark.parametrize(('stage', 'scale'), [('head', 0.5), ('head', 0.2), (1, 0.25)])
def test_the_loss_equals_a_slow_loop(stage, scale):
    ours, theirs = views(*pair(teacher=segmentor(width=16)))
    value = PairWise(stage=stage, pooling_scale=scale)(ours, theirs)
    s, t = ours.stage(stage), theirs.stage(stage)
    assert s.shape[1] != t.shape[1]
    expected = slow_loss(s.detach(), t, ours.valid_at(s.shape[-2:]), scale)
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_identical_features_give_zero():
    student, _ = pair()
    assert PairWise()(*views(student, student)).item() == 0


def test_the_teacher_gets_no_gradient_and_the_students_trunk_gets_one():
    ours, theirs = views(*pair())
    theirs.head_features = theirs.head_features.requires_grad_()
    PairWise(pooling_scale=0.2)(ours, theirs).backward()
    assert theirs.head_features.grad is None
    assert ours.model.backbone.layer1[0].conv1.weight.grad.abs().sum() > 0


def test_ignored_pixels_and_padding_change_nothing():
    ours, theirs = views(*pair())
    before = PairWise(pooling_scale=0.2)(ours, theirs)
    valid = ours.valid_at(ours.head_features.shape[-2:])[:, None]
    assert not valid.all()
    ours.head_features = torch.where(valid, ours.head_features, 9.0)
    theirs.head_features = torch.where(valid, theirs.head_features, 7.0)
    torch.testing.assert_close(PairWise(pooling_scale=0.2)(ours, theirs), before)


def test_a_batch_without_a_valid_pixel_gives_zero_that_back_propagates():
    ours, theirs = views(*pair())
    ours.labels = torch.full_like(ours.labels, 255)
    value = PairWise()(ours, theirs)
    value.backward()
    assert value.item() == 0
    assert ours.model.backbone.layer1[0].conv1.weight.grad.isfinite().all()


def test_a_teacher_of_another_stride_is_brought_to_the_students_size():
    ours, theirs = views(*pair(teacher=segmentor(stride=32)))
    s = ours.head_features
    t = F.interpolate(theirs.head_features, s.shape[-2:], mode='bilinear')
    expected = slow_loss(s.detach(), t, ours.valid_at(s.shape[-2:]), 0.5)
    assert PairWise()(ours, theirs).item() == pytest.approx(expected, rel=1e-4)


def test_the_published_variant_counts_all_nodes_and_lets_no_gradient_through_the_norms():
    ours, theirs = views(*pair())
    s, t = ours.head_features.detach(), theirs.head_features
    everywhere = torch.ones_like(ours.valid_at(s.shape[-2:]))
    value = PairWise(variant='reference')(ours, theirs)
    assert value.item() == pytest.approx(slow_loss(s, t, everywhere, 0.5), rel=1e-4)
    nodes = features().flatten(2).requires_grad_()
    (gradient,) = torch.autograd.grad(
        affinity(nodes, constant_norm=True).diagonal(0, 1, 2).sum(), nodes
    )
    assert gradient.abs().max() > 0.1  # of |f| / |f| = 1 it would be 0


def test_too_many_nodes_are_refused_before_the_memory_is_gone():
    ours, theirs = views(*pair())
    with pytest.raises(SetupError, match='64 nodes, max_nodes allows 60'):
        PairWise(pooling_scale=0.01, max_nodes=60)(ours, theirs)


def test_large_features_in_half_precision_stay_finite():
    ours, theirs = views(*pair())
    ours.head_features = (ours.head_features.detach() * 100).bfloat16().requires_grad_()
    theirs.head_features = theirs.head_features.bfloat16()
    value = PairWise(pooling_scale=0.2)(ours, theirs)
    value.backward()
    assert value.dtype == torch.float32 and ours.head_features.grad.isfinite().all()


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(pooling_scale=0), 'pooling_scale is 0'),
        (dict(pooling_scale=1.5), 'pooling_scale is 1.5'),
        (dict(stage='neck'), "stage is 'neck'"),
        (dict(variant='published'), "'paper', 'reference'"),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        PairWise(**choice)


def test_a_stage_that_is_not_there_is_named():
    ours, theirs = views(*pair())
    with pytest.raises(SetupError, match='no stage 4; it has 4, 0 to 3'):
        PairWise(stage=4)(ours, theirs)
