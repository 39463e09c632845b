"""Localization distillation: equal to its formula, and to mmdet's own LDHead."""

import math

import pytest
import torch
from mmdet.models.dense_heads import LDHead
from mmdet.models.utils import unpack_gt_instances

from kd_dense import MODELS, LocalizationDistillation
from kd_dense.errors import SetupError
from kd_dense.losses import edge_kl, softmax_kl
from kd_dense.losses.regions import vlr_overlaps
from kd_dense.views import OneStageView
from tests.helpers.models import gfl
from tests.helpers.pairs import atss, build, pair

BINS = 9  # reg_max of the small GFL is 8

VARIANTS = pytest.mark.parametrize('variant', ['paper', 'reference'])
REGIONS = pytest.mark.parametrize('region', ['main', 'vlr'])


def slow_edge_kl(s: list[float], t: list[float], temperature: float) -> float:
    p_s = [math.exp(x / temperature) for x in s]
    p_t = [math.exp(x / temperature) for x in t]
    p_s, p_t = [p / sum(p_s) for p in p_s], [p / sum(p_t) for p in p_t]
    return sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True)) * temperature**2


def slow_loss(student, teacher, region: str, variant: str, temperature: float) -> float:
    """The loss as METHODS and its docstring say it, edge by edge."""
    ours, theirs = student.flat_box_logits.tolist(), teacher.flat_box_logits.tolist()
    scores = student.flat_cls_logits.sigmoid().tolist()
    overlaps = vlr_overlaps(student, variant)
    mask = student.positives if region == 'main' else overlaps >= 0
    if region == 'all':
        mask, scores = student.valid, teacher.flat_cls_logits.sigmoid().tolist()
    total = weight_sum = 0.0
    for i, p in mask.nonzero().tolist():
        if region in ('main', 'all'):
            weight = max(scores[i][p])
        else:
            weight = overlaps[i, p].item() if variant == 'reference' else 1.0
        weight_sum += weight
        for edge in range(4):
            bins = slice(edge * BINS, (edge + 1) * BINS)
            kl = slow_edge_kl(ours[i][p][bins], theirs[i][p][bins], temperature)
            total += weight * (kl / BINS if variant == 'reference' else kl)
    if variant == 'reference':
        return total / (4 if region == 'main' else 16)
    return total / max(weight_sum, 1)


# -- the function ------------------------------------------------------------------------------


def edges(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(5, 4 * 3, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_edge_kl_is_zero_at_equality():
    assert edge_kl(edges(0), edges(0), 3, 10.0).abs().max() < 1e-5


def test_edge_kl_literal():
    # only the second edge differs: P_t = (3/4, 1/4) against P_s = (1/2, 1/2)
    t = torch.zeros(1, 8)
    t[0, 2] = math.log(3.0)
    value = edge_kl(torch.zeros(1, 8), t, 2, 1.0)
    assert value.tolist() == [[0, pytest.approx(0.13081204), 0, 0]]


def test_edge_kl_equals_a_slow_loop():
    s, t = edges(0, torch.float64), edges(1, torch.float64)
    value = edge_kl(s, t, 3, 10.0)
    assert value.shape == (5, 4)
    for b in range(5):
        for e in range(4):
            bins = slice(3 * e, 3 * e + 3)
            expected = slow_edge_kl(s[b, bins].tolist(), t[b, bins].tolist(), 10.0)
            assert value[b, e].item() == pytest.approx(expected, rel=1e-6)


def test_edge_kl_is_softmax_kl_of_each_edge():
    s, t = edges(0), edges(1)
    per_edge = [softmax_kl(s[:, 3 * e : 3 * e + 3], t[:, 3 * e : 3 * e + 3], 5.0) for e in range(4)]
    torch.testing.assert_close(edge_kl(s, t, 3, 5.0), torch.stack(per_edge, dim=1))


def test_edge_kl_has_the_gradients_of_finite_differences():
    s, t = edges(0, torch.float64).requires_grad_(), edges(1, torch.float64)
    assert torch.autograd.gradcheck(lambda x: edge_kl(x, t, 3, 10.0), s)


def test_edge_kl_of_non_contiguous_logits_is_the_same():
    s, t = edges(0), edges(1)
    assert torch.equal(edge_kl(s.t().contiguous().t(), t, 3, 2.0), edge_kl(s, t, 3, 2.0))


def test_edge_kl_gives_the_teacher_no_gradient():
    s, t = edges(0).requires_grad_(), edges(1).requires_grad_()
    edge_kl(s, t, 3, 10.0).sum().backward()
    assert t.grad is None and s.grad.abs().sum() > 0


def test_edge_kl_of_half_precision_and_of_extremes_is_finite_float32():
    s = torch.full((2, 12), 100.0, dtype=torch.float16)
    s[:, ::3] = -100
    value = edge_kl(s.requires_grad_(), -s, 3, 1.0)
    value.sum().backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all() and torch.isfinite(s.grad).all()


def test_edge_kl_refuses_other_numbers_of_boxes():
    with pytest.raises(SetupError, match=r'\(2, 4, 3\) from the student and \(1, 4, 3\)'):
        edge_kl(torch.zeros(2, 12), torch.zeros(1, 12), 3, 1.0)


def test_edge_kl_refuses_other_numbers_of_bins():
    with pytest.raises(SetupError, match=r'\(2, 4, 3\) from the student and \(2, 4, 5\)'):
        edge_kl(torch.zeros(2, 12), torch.zeros(2, 20), 3, 1.0)


# -- the loss ----------------------------------------------------------------------------------


@VARIANTS
@REGIONS
@pytest.mark.parametrize('temperature', [1.0, 10.0])
def test_the_loss_equals_a_slow_loop(region, variant, temperature):
    student, teacher = pair()
    loss = LocalizationDistillation(region, temperature, variant=variant)
    value = loss(student, teacher).item()
    assert value > 0.01
    assert value == pytest.approx(
        slow_loss(student, teacher, region, variant, temperature), rel=1e-3
    )


def test_all_positions_equal_a_slow_loop_and_ask_no_labels():
    student, teacher = pair()
    assert not student.valid.all()  # padding is left out
    expected = slow_loss(student, teacher, 'all', 'paper', 10.0)
    unlabelled = OneStageView(student.model, student.batch)
    unlabelled.annotated = False
    loss = LocalizationDistillation('all')
    value = loss(unlabelled, teacher)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-3) and expected > 0.01
    head = student.model.bbox_head
    assert head.gfl_reg.weight.grad.abs().sum() > 0 and head.gfl_cls.weight.grad is None
    assert all(p.grad is None for p in teacher.model.parameters())
    same = OneStageView(student.model, student.batch, torch.no_grad)
    assert abs(loss(unlabelled, same).item()) < 1e-4


def test_weights_that_sum_to_less_than_one_are_not_divided_by():
    student, teacher = pair(boxes=((), ((30.0, 20.0, 100.0, 85.0),)))
    student.flat_cls_logits = student.flat_cls_logits - 6
    weights = student.flat_cls_logits[student.positives].sigmoid().amax(-1)
    assert 0 < weights.sum() < 1
    value = LocalizationDistillation()(student, teacher).item()
    assert value == pytest.approx(slow_loss(student, teacher, 'main', 'paper', 10.0), rel=1e-3)


@VARIANTS
@REGIONS
def test_the_loss_is_zero_where_both_views_show_the_same(region, variant):
    student, _ = pair()
    same = OneStageView(student.model, student.batch, torch.no_grad)
    assert abs(LocalizationDistillation(region, variant=variant)(student, same).item()) < 1e-4


@VARIANTS
@REGIONS
def test_the_loss_teaches_the_box_branch_only(region, variant):
    student, teacher = pair()
    LocalizationDistillation(region, variant=variant)(student, teacher).backward()
    head = student.model.bbox_head
    assert head.gfl_reg.weight.grad.abs().sum() > 0
    assert head.gfl_cls.weight.grad is None  # the class scores only weight
    assert all(p.grad is None for p in teacher.model.parameters())


@VARIANTS
@REGIONS
def test_without_objects_the_loss_is_zero_and_back_propagates(region, variant):
    student, teacher = pair(boxes=((), ()))
    value = LocalizationDistillation(region, variant=variant)(student, teacher)
    value.backward()
    assert value.item() == 0
    gradient = student.model.bbox_head.gfl_reg.weight.grad
    assert gradient is not None and not gradient.any()


# -- the published code ------------------------------------------------------------------------


def mmdets_loss(student: OneStageView, teacher: OneStageView, temperature: int) -> list:
    """``loss_ld`` of mmdet's LDHead with the student's weights, per level."""
    config = gfl()['bbox_head']
    del config['type']
    ld = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=temperature)
    train_cfg = student.model.bbox_head.train_cfg
    head = LDHead(**config, loss_ld=ld, train_cfg=train_cfg)
    head.load_state_dict(student.model.bbox_head.state_dict(), strict=False)
    instances, ignored, metas = unpack_gt_instances(student.batch.samples)
    outputs = head(student.features)
    return head.loss_by_feat(*outputs, instances, metas, teacher.box_logits, ignored)['loss_ld']


SMALL = ((10.0, 12.0, 40.0, 44.0),)
BIG = ((20.0, 12.0, 120.0, 110.0),)


@pytest.mark.parametrize(
    ('boxes', 'empty_levels'),
    [
        ((((10.0, 12.0, 60.0, 50.0), (20.0, 80.0, 44.0, 104.0), *BIG), SMALL), None),
        ((SMALL, ((30.0, 20.0, 58.0, 45.0),)), {1, 2}),
        (((), BIG[:1]), None),
        (((), ()), {0, 1, 2}),
    ],
)
@pytest.mark.parametrize('temperature', [1, 10])
def test_the_reference_equals_mmdets_own_ld_head(boxes, empty_levels, temperature):
    student, teacher = pair(boxes=boxes)
    if empty_levels is not None:
        filled = student.level_index.expand_as(student.positives)[student.positives]
        assert {0, 1, 2} - set(filled.tolist()) == empty_levels
    expected = mmdets_loss(student, teacher, temperature)
    loss = LocalizationDistillation('main', temperature, weight=0.25, variant='reference')
    value = loss(student, teacher) * loss.scale
    torch.testing.assert_close(value, sum(expected), rtol=1e-6, atol=1e-7)
    assert (value > 0) == any(boxes)


def test_the_reference_has_the_gradient_of_mmdets_own_ld_head():
    student, teacher = pair()
    theirs = sum(mmdets_loss(student, teacher, 10))
    loss = LocalizationDistillation('main', variant='reference')
    ours = loss(student, teacher) * loss.scale
    a = torch.autograd.grad(ours, student.features[0], retain_graph=True)[0]
    b = torch.autograd.grad(theirs, student.features[0])[0]
    assert a.abs().max() > 0
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-8)


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(region='box'), "region is 'box'; choose one of 'main', 'vlr', 'all'"),
        (dict(variant='mine'), "variant is 'mine'; choose one of 'paper', 'reference'"),
        (dict(region='all', variant='reference'), 'No published code distils localization at all'),
        (dict(temperature=0), 'temperature is 0; it must be above 0'),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        MODELS.build(dict(type='kd_dense.LocalizationDistillation', **choice))


def test_a_head_without_distributions_is_refused():
    (finding,) = LocalizationDistillation().demands(build(atss()))
    assert 'as a distribution (GFLHead), found ATSSHead' in finding
    assert LocalizationDistillation('vlr').demands(build(gfl())) == []
