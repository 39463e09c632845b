"""Imitation of features: equal to its formula, with and without adapters."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_overlaps
from torch import nn

from kd_dense import MODELS, FeatureImitation
from kd_dense.errors import SetupError
from kd_dense.losses import masked_squared_error
from kd_dense.losses.regions import REGIONS, published_general_instances
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import OneStageView
from tests.helpers.models import gfl
from tests.helpers.pairs import batch_for, build, noted, pair, retina


def maps(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some(seed: int = 7) -> torch.Tensor:
    return torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) > 0.5


# -- the function ------------------------------------------------------------------------------


def test_the_error_is_zero_at_equality():
    total, count = masked_squared_error(maps(0), maps(0), some())
    assert total == 0 and count == some().sum()


def test_a_literal():
    s, t = torch.zeros(1, 2, 1, 3), torch.tensor([[[[1.0, 2.0, 9.0]], [[3.0, 4.0, 9.0]]]])
    total, count = masked_squared_error(s, t, torch.tensor([[[True, True, False]]]))
    assert (total.item(), count.item()) == (1 + 9 + 4 + 16, 2)


def test_the_error_equals_a_slow_loop():
    s, t, mask = maps(0), maps(1), some()
    total, count = masked_squared_error(s, t, mask)
    expected = sum(
        (s[n, c, h, w].item() - t[n, c, h, w].item()) ** 2
        for n, h, w in mask.nonzero().tolist()
        for c in range(3)
    )
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert count.item() == len(mask.nonzero())


def test_over_the_whole_map_it_is_torchs_mse_loss():
    s, t = maps(0), maps(1)
    total, count = masked_squared_error(s, t, torch.ones(2, 4, 5, dtype=torch.bool))
    torch.testing.assert_close(total / count / 3, F.mse_loss(s, t))


def test_gradients_are_those_of_finite_differences():
    s, t = maps(0, torch.float64).requires_grad_(), maps(1, torch.float64)
    assert torch.autograd.gradcheck(lambda x: masked_squared_error(x, t, some())[0], s)


def test_the_teacher_gets_no_gradient_and_the_student_only_inside_the_mask():
    s, t = maps(0).requires_grad_(), maps(1).requires_grad_()
    masked_squared_error(s, t, some())[0].backward()
    assert t.grad is None
    assert torch.equal(s.grad.abs().sum(dim=1) > 0, some())


def test_non_contiguous_features_give_the_same():
    s, t = maps(0), maps(1)
    last = s.contiguous(memory_format=torch.channels_last)
    strided = t.repeat_interleave(2, dim=3)[..., ::2]
    ours = masked_squared_error(last, strided, some())[0]
    torch.testing.assert_close(ours, masked_squared_error(s, t, some())[0])


def test_an_empty_mask_gives_zero_that_back_propagates():
    s = maps(0).requires_grad_()
    total, count = masked_squared_error(s, maps(1), torch.zeros(2, 4, 5, dtype=torch.bool))
    total.backward()
    assert total.item() == 0 and count.item() == 0 and not s.grad.any()


def test_half_precision_is_squared_in_float32():
    s = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)  # its square is no float16
    total, _ = masked_squared_error(s, -s, torch.ones(1, 1, 1, dtype=torch.bool))
    assert total.dtype == torch.float32 and total.item() == 360000


def test_features_of_different_shapes_are_refused():
    message = r'one shape; got \(2, 3, 4, 5\) from the student and \(2, 6, 4, 5\).*adapter='
    with pytest.raises(SetupError, match=message):
        masked_squared_error(maps(0), maps(0).repeat(1, 2, 1, 1), some())


# -- the loss ----------------------------------------------------------------------------------


def slow_loss(student, teacher, region: str, variant: str, adapters=None) -> float:
    """Position by position, as the docstring says."""
    chosen = student.positions(REGIONS[region](student, teacher))
    totals, counts = [], []
    for level, mask in enumerate(chosen):
        s, t = student.features[level].detach(), teacher.features[level]
        if adapters is not None:
            s = adapters[level](s).detach()
        totals.append(
            sum((s[n, :, h, w] - t[n, :, h, w]).square().sum() for n, h, w in mask.nonzero())
        )
        counts.append(int(mask.sum()))
    channels = teacher.features[0].shape[1]
    if variant == 'reference':
        with_positives = [p.any() or region == 'all' for p in student.positions(student.positives)]
        levels = zip(totals, counts, with_positives, strict=True)
        return sum(float(t) / max(n, 1) for t, n, some in levels if some) / channels
    return float(sum(totals)) / channels / max(sum(counts), 1)


@pytest.mark.parametrize('variant', ['paper', 'reference'])
@pytest.mark.parametrize('region', ['all', 'box', 'fine_grained', 'main', 'vlr'])
def test_the_loss_equals_a_slow_loop(region, variant):
    student, teacher = pair()
    value = FeatureImitation(region, adapter='none', variant=variant)(student, teacher).item()
    assert value > 0.1
    assert value == pytest.approx(slow_loss(student, teacher, region, variant), rel=1e-4)


ONE_OBJECT_EACH = ((((10.0, 12.0, 22.0, 25.0),)), ((40.0, 44.0, 55.0, 58.0),))
WITHOUT_PADDING = ((128, 160), (128, 160))


@pytest.mark.parametrize('region', ['box', 'fine_grained', 'general'])
def test_the_reference_imitates_nothing_on_levels_without_positives(region):
    student, teacher = pair(sizes=WITHOUT_PADDING, boxes=ONE_OBJECT_EACH)
    some = [bool(p.any()) for p in student.positions(student.positives)]
    assert some == [True, False, False]  # both objects are small
    before = FeatureImitation(region, adapter='none', variant='reference')(student, teacher)
    assert before > 0.1
    teacher.features = tuple(
        f + (0.0 if found else 9.0) for f, found in zip(teacher.features, some, strict=True)
    )
    after = FeatureImitation(region, adapter='none', variant='reference')(student, teacher)
    assert torch.equal(before, after)
    if region == 'box':  # which reaches into all levels
        assert FeatureImitation(region, adapter='none')(student, teacher) > 10


def test_the_references_general_instances_are_ten_positions_of_each_level_of_the_batch():
    student, teacher = pair(sizes=WITHOUT_PADDING)
    mask = published_general_instances(student, teacher)
    s, t = student.flat_cls_logits.sigmoid(), teacher.flat_cls_logits.sigmoid()
    difference, which = (t - s).abs().max(-1)
    for level in range(3):
        here = (student.level_index == level).nonzero().flatten().tolist()
        ranked = sorted(
            ((n, p) for n in range(2) for p in here), key=lambda at: -difference[at].item()
        )
        kept, boxes = [], []
        for at in ranked:
            surer = teacher if (t - s)[at][which[at]] > 0 else student
            box = surer.decoded_boxes[at].detach()[None]
            if all(bbox_overlaps(box, other).item() <= 0.3 for other in boxes):
                kept.append(at)
                boxes.append(box)
        chosen = {(n, p) for n, p in mask.nonzero().tolist() if p in set(here)}
        assert chosen == set(kept[:10])


@pytest.mark.parametrize('variant', ['paper', 'reference'])
def test_adapters_bring_the_students_channels_to_the_teachers(variant):
    model, wide = build(gfl(), 0), build(gfl(channels=32), 1)
    student = noted(model, batch_for(model))
    teacher = OneStageView(wide, student.batch, torch.no_grad)
    loss = FeatureImitation('main', variant=variant)
    loss.connect(model, FrozenTeacher.of(wide))
    assert [(a.in_channels, a.out_channels, a.kernel_size) for a in loss.adapters] == [
        (16, 32, (1, 1))
    ] * 3
    value = loss(student, teacher)
    expected = slow_loss(student, teacher, 'main', variant, loss.adapters)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert loss.adapters[0].weight.grad.abs().sum() > 0
    assert model.neck.fpn_convs[0].conv.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in wide.parameters())


def test_adapters_are_convolutions_where_needed_or_asked_for():
    model, same, wide = build(gfl()), build(gfl(), 1), build(gfl(channels=32), 1)
    kinds = {}
    for name, adapter, teacher in (
        ('auto, same', 'auto', same),
        ('auto, wide', 'auto', wide),
        ('conv1x1, same', 'conv1x1', same),
        ('none, same', 'none', same),
    ):
        loss = FeatureImitation(adapter=adapter)
        loss.connect(model, FrozenTeacher.of(teacher))
        kinds[name] = [type(a) for a in loss.adapters]
    assert kinds == {
        'auto, same': [nn.Identity] * 3,
        'auto, wide': [nn.Conv2d] * 3,
        'conv1x1, same': [nn.Conv2d] * 3,
        'none, same': [],
    }


def test_without_adapters_the_teacher_is_not_even_built():
    teacher = FrozenTeacher('gone.py', 'gone.pth')
    FeatureImitation(adapter='none').connect(build(gfl()), teacher)
    assert 'model' not in vars(teacher)


def test_initialising_starts_the_adapters_anew():
    loss = FeatureImitation(adapter='conv1x1')
    loss.connect(build(gfl()), FrozenTeacher.of(build(gfl(), 1)))
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.zero_()
    loss.init_weights()
    assert all(a.weight.std() > 0.01 for a in loss.adapters)


def test_an_inactive_loss_still_touches_its_adapters():
    loss = FeatureImitation(weight=0, adapter='conv1x1')
    loss.connect(build(gfl()), FrozenTeacher.of(build(gfl(), 1)))
    value = loss.zero_like_parameters(torch.zeros(1, 3, 8, 8))
    value.backward()
    assert value.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in loss.parameters())


def test_the_loss_is_zero_where_both_views_show_the_same():
    student, _ = pair()
    same = OneStageView(student.model, student.batch, torch.no_grad)
    assert FeatureImitation('all', adapter='none')(student, same).item() < 1e-10


@pytest.mark.parametrize('variant', ['paper', 'reference'])
def test_without_positives_the_loss_is_zero_and_back_propagates(variant):
    student, teacher = pair(boxes=((), ()))
    value = FeatureImitation('main', adapter='none', variant=variant)(student, teacher)
    value.backward()
    assert value.item() == 0
    gradient = student.model.neck.fpn_convs[0].conv.weight.grad
    assert gradient is not None and not gradient.any()


def test_padding_does_not_count():
    student, teacher = pair()
    before = FeatureImitation('all', adapter='none')(student, teacher)
    for features in teacher.features:  # the second image is smaller: spoil its padding
        rows = -(-90 * features.shape[2] // 128)
        features[1, :, rows:] = 1e6
    after = FeatureImitation('all', adapter='none')(student, teacher)
    assert torch.equal(before, after)


def test_a_position_counts_once_however_many_anchors_it_has():
    student, teacher = pair(retina())
    masks = student.positions(student.valid)
    assert [m.shape for m in masks] == [(2, 16, 20), (2, 8, 10), (2, 4, 5)]
    value = FeatureImitation('all', adapter='none')(student, teacher).item()
    assert value == pytest.approx(slow_loss(student, teacher, 'all', 'paper'), rel=1e-4)


def test_half_precision_features_of_the_teacher_are_compared_in_float32():
    student, teacher = pair()
    full = FeatureImitation('all', adapter='none')(student, teacher)
    teacher.features = tuple(f.half() for f in teacher.features)
    half = FeatureImitation('all', adapter='none')(student, teacher)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(region='moon'), "region is 'moon'; choose one of 'all', 'box'"),
        (
            dict(adapter='linear'),
            "adapter is 'linear'; choose one of 'auto', 'conv1x1', 'conv3x3', 'none'",
        ),
        (dict(variant='mine'), "variant is 'mine'; choose one of 'paper', 'reference'"),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        MODELS.build(dict(type='kd_dense.FeatureImitation', **choice))
