"""Soft targets: the two divergences, and the loss that reads them off a region."""

import math

import pytest
import torch
import torch.nn.functional as F

from kd_dense import MODELS, SoftTargets
from kd_dense.errors import SetupError
from kd_dense.losses import sigmoid_kl, softmax_kl, standardized
from kd_dense.pair import unmet
from kd_dense.views import OneStageView
from tests.helpers.models import gfl
from tests.helpers.pairs import build, pair, retina
from tests.helpers.two_stage import faster_rcnn
from tests.helpers.waves import wave

LOSSES = (softmax_kl, sigmoid_kl)


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slow_softmax_kl(s: list[float], t: list[float], temperature: float) -> float:
    """Equation by equation, in plain Python."""
    p_s = [math.exp(x / temperature) for x in s]
    p_t = [math.exp(x / temperature) for x in t]
    p_s, p_t = [p / sum(p_s) for p in p_s], [p / sum(p_t) for p in p_t]
    kl = sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))
    return kl * temperature * temperature


def slow_sigmoid_kl(s: float, t: float, temperature: float) -> float:
    p_s, p_t = (1 / (1 + math.exp(-x / temperature)) for x in (s, t))
    kl = p_t * math.log(p_t / p_s) + (1 - p_t) * math.log((1 - p_t) / (1 - p_s))
    return kl * temperature * temperature


# -- the functions -----------------------------------------------------------------------------


@pytest.mark.parametrize('kl', LOSSES)
def test_a_divergence_is_zero_at_equality_and_positive_elsewhere(kl):
    t = logits(4, 5)
    assert kl(t, t, 3.0).abs().max() < 1e-6
    assert (kl(t.flip(0), t, 3.0) > 1e-3).all()


def test_softmax_kl_ignores_a_shift_of_all_logits():
    s, t = logits(4, 5), logits(4, 5, seed=1)
    torch.testing.assert_close(softmax_kl(s + 7, t - 3, 2.0), softmax_kl(s, t, 2.0))


def test_literals():
    # P_t = (3/4, 1/4) against P_s = (1/2, 1/2): 0.75 ln 1.5 + 0.25 ln 0.5
    s, t = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    assert softmax_kl(s, t).item() == pytest.approx(0.13081204)
    assert softmax_kl(s, 2 * t, 2.0).item() == pytest.approx(4 * 0.13081204)
    assert sigmoid_kl(s[0, :1], t[0, :1]).item() == pytest.approx(0.13081204)
    assert sigmoid_kl(s[0, :1], 2 * t[0, :1], 2.0).item() == pytest.approx(4 * 0.13081204)


def test_the_direction_is_from_teacher_to_student():
    # P_t = (3/4, 1/4) against P_s = (1/2, 1/2), the other way: 0.5 ln(2/3) + 0.5 ln 2
    s, t = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert softmax_kl(s, t).item() == pytest.approx(0.14384104)
    assert sigmoid_kl(s[0, :1], t[0, :1]).item() == pytest.approx(0.14384104)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0, 20.0])
def test_softmax_kl_equals_a_slow_loop(temperature):
    s, t = logits(2, 3, 5, dtype=torch.float64), logits(2, 3, 5, seed=1, dtype=torch.float64)
    value = softmax_kl(s, t, temperature)
    assert value.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            expected = slow_softmax_kl(s[i, j].tolist(), t[i, j].tolist(), temperature)
            assert value[i, j].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0, 20.0])
def test_sigmoid_kl_equals_a_slow_loop(temperature):
    s, t = logits(3, 4, dtype=torch.float64), logits(3, 4, seed=1, dtype=torch.float64)
    value = sigmoid_kl(s, t, temperature)
    assert value.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            expected = slow_sigmoid_kl(s[i, j].item(), t[i, j].item(), temperature)
            assert value[i, j].item() == pytest.approx(expected, rel=1e-6)


def test_softmax_kl_at_temperature_one_is_torchs_kl_div():
    s, t = logits(6, 5), logits(6, 5, seed=1)
    expected = F.kl_div(s.log_softmax(1), t.softmax(1), reduction='batchmean')
    torch.testing.assert_close(softmax_kl(s, t).mean(), expected)


def test_sigmoid_kl_at_temperature_one_is_binary_cross_entropy_minus_entropy():
    s, t = logits(6, 5), logits(6, 5, seed=1)
    p = t.sigmoid()
    cross = F.binary_cross_entropy_with_logits(s, p, reduction='none')
    entropy = F.binary_cross_entropy_with_logits(t, p, reduction='none')
    torch.testing.assert_close(sigmoid_kl(s, t), cross - entropy, rtol=1e-4, atol=1e-6)


def test_softmax_kl_of_two_classes_is_sigmoid_kl_of_their_difference():
    s, t = logits(7), logits(7, seed=1)
    zero = torch.zeros(7)
    both = softmax_kl(torch.stack([s, zero], 1), torch.stack([t, zero], 1), 3.0)
    torch.testing.assert_close(both, sigmoid_kl(s, t, 3.0))


def test_for_large_temperatures_the_gradient_is_that_of_logit_matching():
    s, t = logits(3, 8, dtype=torch.float64), logits(3, 8, seed=1, dtype=torch.float64)
    s, t = s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
    s.requires_grad_()
    limit = (s - t).detach() / 8
    distances = []
    for temperature in (10.0, 100.0, 1000.0):
        (gradient,) = torch.autograd.grad(softmax_kl(s, t, temperature).sum(), s)
        distances.append((gradient - limit).abs().max().item())
    assert distances[2] < 2e-3
    assert distances[0] > 5 * distances[1] > 25 * distances[2]


@pytest.mark.parametrize('kl', LOSSES)
def test_gradients_are_those_of_finite_differences(kl):
    s = logits(2, 4, dtype=torch.float64).requires_grad_()
    t = logits(2, 4, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kl(x, t, 3.0), s)


@pytest.mark.parametrize('kl', LOSSES)
def test_the_teacher_gets_no_gradient(kl):
    s, t = logits(2, 4).requires_grad_(), logits(2, 4, seed=1).requires_grad_()
    kl(s, t, 2.0).sum().backward()
    assert t.grad is None
    assert s.grad.abs().sum() > 0


@pytest.mark.parametrize('kl', LOSSES)
def test_non_contiguous_logits_give_the_same(kl):
    s, t = logits(4, 6), logits(4, 6, seed=1)
    ours = kl(s.t().contiguous().t(), t[:, ::2].repeat_interleave(2, dim=1), 2.0)
    assert torch.equal(ours, kl(s, t[:, [0, 0, 2, 2, 4, 4]].contiguous(), 2.0))


@pytest.mark.parametrize('kl', LOSSES)
def test_nothing_to_compare_sums_to_zero_and_back_propagates(kl):
    s = torch.zeros(0, 5, requires_grad=True)
    total = kl(s, torch.zeros(0, 5), 2.0).sum()
    total.backward()
    assert total.item() == 0 and s.grad.shape == (0, 5)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 10.0])
@pytest.mark.parametrize('kl', LOSSES)
def test_logits_of_a_hundred_stay_finite(kl, temperature):
    s = torch.tensor([[100.0, -100.0], [-100.0, 100.0], [100.0, -100.0]], requires_grad=True)
    t = torch.tensor([[-100.0, 100.0], [-100.0, 100.0], [0.0, 0.0]])
    value = kl(s, t, temperature)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(s.grad).all()
    assert (value >= 0).all()


def test_logits_of_a_hundred_have_the_exact_value():
    s, t = torch.tensor([[100.0, -100.0]]), torch.tensor([[-100.0, 100.0]])
    assert softmax_kl(s, t).item() == pytest.approx(200)
    assert sigmoid_kl(s, t).tolist() == [[pytest.approx(100), pytest.approx(100)]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('kl', LOSSES)
def test_half_precision_logits_are_compared_in_float32(kl, dtype):
    s, t = logits(4, 5, dtype=dtype), logits(4, 5, seed=1, dtype=dtype)
    value = kl(s, t, 10.0)
    assert value.dtype == torch.float32
    assert torch.equal(value, kl(s.float(), t.float(), 10.0))
    assert torch.equal(kl(s.float(), t, 10.0), value)


@pytest.mark.parametrize('kl', LOSSES)
def test_double_precision_stays_double(kl):
    s, t = logits(2, 3, dtype=torch.float64), logits(2, 3, seed=1)
    assert kl(s, t).dtype == torch.float64


@pytest.mark.parametrize('kl', LOSSES)
def test_logits_of_different_shapes_are_refused(kl):
    message = r'must have one shape; got \(2, 3\) from the student and \(2, 4\) from the teacher'
    with pytest.raises(SetupError, match=message):
        kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(SetupError, match='must have one shape'):
        kl(torch.zeros(2, 3), torch.zeros(1, 3))


# -- standardized logits -----------------------------------------------------------------------


def test_standardized_logits_equal_a_slow_loop():
    x = logits(3, 5, dtype=torch.float64)
    for row, found in zip(x.tolist(), standardized(x).tolist(), strict=True):
        mean = sum(row) / 5
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / 4)
        assert found == pytest.approx([(v - mean) / deviation for v in row])
    torch.testing.assert_close(standardized(x.T, dim=0), standardized(x).T)


def test_standardized_logits_mind_neither_offset_nor_size():
    s, t = logits(4, 5), logits(4, 5, seed=1)
    torch.testing.assert_close(
        softmax_kl(standardized(7 * s + 3), standardized(0.01 * t - 9), 2.0),
        softmax_kl(standardized(s), standardized(t), 2.0),
        rtol=1e-3,
        atol=1e-5,
    )
    assert softmax_kl(standardized(5 * t), standardized(t)).abs().max() < 1e-5


def test_the_value_is_that_of_the_published_code():
    """Recorded from ``kd_loss`` of github.com/sunshangquan/logit-standardization-KD, T = 2."""
    s, t = 3 * wave(5, 7), 2 * wave(5, 7, phase=1.0)
    value = softmax_kl(standardized(s), standardized(t), 2.0).mean()
    assert value.item() == pytest.approx(0.3822624385356903, rel=1e-5)


def test_gradients_through_standardized_logits():
    s = logits(2, 4, dtype=torch.float64).requires_grad_()
    t = logits(2, 4, seed=1, dtype=torch.float64).requires_grad_()

    def kl(x):
        return softmax_kl(standardized(x), standardized(t), 2.0)

    assert torch.autograd.gradcheck(kl, s)
    kl(s).sum().backward()
    assert t.grad is None


@pytest.mark.parametrize('value', [0.1, 1234.567, -6e4 / 7])
def test_rounding_is_no_spread(value):
    assert not standardized(torch.full((3, 7), value)).any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_logits_that_are_all_alike_become_zero_without_a_gradient(dtype):
    s = torch.tensor([[100.0] * 3, [0.0] * 3, [100.0, -100.0, 0.0]], dtype=dtype).requires_grad_()
    z = standardized(s)
    softmax_kl(z, logits(3, 3)).sum().backward()
    assert z.dtype == torch.float32 and not z[:2].any() and z[2].tolist() == [1, -1, 0]
    assert s.grad.isfinite().all() and not s.grad[:2].any()


# -- the loss ----------------------------------------------------------------------------------


def slow_loss(student, teacher, temperature, activation, region, over_classes, variant):
    """The loss as its docstring says it, prediction by prediction."""
    mask = student.positives if region == 'main' else student.valid
    ours, theirs = student.flat_cls_logits.tolist(), teacher.flat_cls_logits.tolist()
    level = student.level_index.tolist()
    total, count = [0.0] * 3, [0] * 3
    for i, p in mask.nonzero().tolist():
        s, t = ours[i][p], theirs[i][p]
        if activation == 'softmax':
            kl = slow_softmax_kl(s, t, temperature)
        else:
            kl = sum(slow_sigmoid_kl(a, b, temperature) for a, b in zip(s, t, strict=True))
        total[level[p]] += kl / (len(s) if over_classes == 'mean' else 1)
        count[level[p]] += 1
    if variant == 'reference':
        return sum(x / n for x, n in zip(total, count, strict=True) if n)
    return sum(total) / max(sum(count), 1)


@pytest.mark.parametrize('variant', ['paper', 'reference'])
@pytest.mark.parametrize('over_classes', ['sum', 'mean'])
@pytest.mark.parametrize(
    ('activation', 'region', 'temperature'),
    [('softmax', 'main', 2.0), ('sigmoid', 'main', 1.0), ('sigmoid', 'all', 4.0)],
)
def test_the_loss_equals_a_slow_loop(activation, region, temperature, over_classes, variant):
    student, teacher = pair()
    choices = (temperature, activation, region, over_classes, variant)
    loss = SoftTargets(
        temperature,
        activation=activation,
        region=region,
        over_classes=over_classes,
        variant=variant,
    )
    value = loss(student, teacher).item()
    assert value == pytest.approx(slow_loss(student, teacher, *choices), rel=1e-4)
    assert value > 0.01


def test_an_automatic_activation_is_the_heads_own():
    student, teacher = pair()
    auto, sigmoid = SoftTargets(), SoftTargets(activation='sigmoid')
    assert torch.equal(auto(student, teacher), sigmoid(student, teacher))
    softmax_head = retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    student, teacher = pair(softmax_head)
    auto, softmax = SoftTargets(), SoftTargets(activation='softmax')
    assert torch.equal(auto(student, teacher), softmax(student, teacher))
    assert student.flat_cls_logits.shape[-1] == 4  # three classes, and the background
    kl = softmax_kl(student.flat_cls_logits, teacher.flat_cls_logits)[student.valid]
    torch.testing.assert_close(auto(student, teacher), kl.mean())


def test_the_loss_standardizes_each_prediction_where_asked_to():
    config = retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    student, teacher = pair(config)
    s, t = (view.flat_cls_logits[student.valid] for view in (student, teacher))
    loss = SoftTargets(temperature=2.0, standardize=True)
    assert unmet(student.model, 'soft', loss) == []
    value, plain = loss(student, teacher), SoftTargets(temperature=2.0)(student, teacher)
    torch.testing.assert_close(value, softmax_kl(standardized(s), standardized(t), 2.0).mean())
    assert not torch.isclose(value, plain)
    student, teacher = pair()  # the classes of a sigmoid head, compared by a softmax
    loss = SoftTargets(activation='softmax', standardize=True)
    assert unmet(student.model, 'soft', loss) == [] and loss(student, teacher) > 0


def test_logits_that_cannot_be_standardized_are_refused_with_the_way_out():
    with pytest.raises(SetupError, match='by sigmoid are independent'):
        SoftTargets(activation='sigmoid', standardize=True)
    loss = SoftTargets(standardize=True)
    assert 'BinaryDistillation' in unmet(build(gfl()), 'soft', loss)[0]
    loss = SoftTargets(activation='softmax', standardize=True)
    assert 'leaves nothing of 2 scores' in unmet(build(gfl(num_classes=2)), 'soft', loss)[0]
    assert 'softmax over one class' in unmet(build(faster_rcnn()), 'soft', loss)[0]


def test_the_module_equals_the_function():
    student, teacher = pair()
    mask = student.valid
    kl = sigmoid_kl(student.flat_cls_logits[mask], teacher.flat_cls_logits[mask], 2.0)
    torch.testing.assert_close(SoftTargets(2.0)(student, teacher), kl.sum() / mask.sum())


@pytest.mark.parametrize('variant', ['paper', 'reference'])
@pytest.mark.parametrize('region', ['all', 'main'])
def test_the_loss_is_zero_where_both_views_show_the_same(region, variant):
    student, _ = pair()
    same = OneStageView(student.model, student.batch, torch.no_grad)
    value = SoftTargets(region=region, variant=variant)(student, same)
    assert abs(value.item()) < 1e-6


@pytest.mark.parametrize('variant', ['paper', 'reference'])
def test_without_positives_the_loss_is_zero_and_back_propagates(variant):
    student, teacher = pair(boxes=((), ()))
    value = SoftTargets(region='main', variant=variant)(student, teacher)
    value.backward()
    assert value.item() == 0
    gradient = student.model.bbox_head.gfl_cls.weight.grad
    assert gradient is not None and not gradient.any()


@pytest.mark.parametrize('variant', ['paper', 'reference'])
def test_the_loss_teaches_the_class_branch_and_nothing_of_the_teacher(variant):
    student, teacher = pair()
    SoftTargets(region='main', variant=variant)(student, teacher).backward()
    head = student.model.bbox_head
    assert head.gfl_cls.weight.grad.abs().sum() > 0
    assert head.gfl_reg.weight.grad is None
    assert all(p.grad is None for p in teacher.model.parameters())


def test_the_loss_does_not_grow_with_the_batch():
    student, teacher = pair()
    twice = OneStageView(student.model, student.batch)
    images, samples = student.batch.images, student.batch.samples
    object.__setattr__(twice, 'batch', type(student.batch)(images.repeat(2, 1, 1, 1), samples * 2))
    doubled = OneStageView(teacher.model, twice.batch, torch.no_grad)
    torch.testing.assert_close(
        SoftTargets()(twice, doubled), SoftTargets()(student, teacher), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(activation='tanh'), "activation is 'tanh'; choose one of 'auto', 'softmax'"),
        (dict(over_classes='max'), "over_classes is 'max'; choose one of 'sum', 'mean'"),
        (dict(variant='mine'), "variant is 'mine'; choose one of 'paper', 'reference'"),
        (dict(region='moon'), "region is 'moon'; choose one of 'all', 'box'"),
        (dict(temperature=0), 'temperature is 0; it must be above 0'),
        (dict(temperature=-1.0), r'temperature is -1\.0; it must be above 0'),
        (dict(temperature=float('nan')), 'temperature is nan'),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        MODELS.build(dict(type='kd_dense.SoftTargets', **choice))


def test_a_teacher_with_other_classes_is_refused():
    student, _ = pair()
    config = retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    _, teacher = pair(config)
    teacher.flat_cls_logits = teacher.flat_cls_logits[:, :420]
    with pytest.raises(SetupError, match=r'\(660, 3\) from the student and \(660, 4\)'):
        SoftTargets()(student, teacher)
