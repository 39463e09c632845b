"""Class-weighted soft cross entropy: equal to its formula, and a mixture with the hard loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from kd_dense import MODELS, ClassWeightedSoftCrossEntropy
from kd_dense.errors import SetupError
from kd_dense.losses import (
    softmax_kl,
    weighted_soft_binary_cross_entropy,
    weighted_soft_cross_entropy,
)
from tests.helpers import pairs, two_stage
from tests.helpers.models import NUM_CLASSES, gfl

WEIGHTS = (0.5, 1.0, 2.0, 1.5)


def logits(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (6, 4)), generator=generator, dtype=torch.float64).to(dtype) * 2


def slow(s: torch.Tensor, t: torch.Tensor, weights: tuple[float, ...], temperature: float) -> list:
    """Box by box and class by class."""
    rows = []
    for a, b in zip(s.tolist(), t.tolist(), strict=True):
        za, zb = (sum(math.exp(x / temperature) for x in row) for row in (a, b))
        rows.append(
            -sum(
                w * math.exp(y / temperature) / zb * math.log(math.exp(x / temperature) / za)
                for w, x, y in zip(weights, a, b, strict=True)
            )
            * temperature**2
        )
    return rows


def slow_binary(s, t, weights, background: float, temperature: float) -> list:
    rows = []
    for a, b in zip(s.tolist(), t.tolist(), strict=True):
        total = 0.0
        for w, x, y in zip(weights, a, b, strict=True):
            p, q = (1 / (1 + math.exp(-z / temperature)) for z in (x, y))
            total -= w * q * math.log(p) + background * (1 - q) * math.log(1 - p)
        rows.append(total * temperature**2)
    return rows


# -- the functions -----------------------------------------------------------------------------


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_softmax_heads_equal_a_slow_loop(temperature):
    s, t = logits(0), logits(1)
    found = weighted_soft_cross_entropy(s, t, torch.tensor(WEIGHTS), temperature)
    expected = slow(s, t, WEIGHTS, temperature)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_sigmoid_heads_equal_a_slow_loop(temperature):
    s, t = logits(0, 6, 3), logits(1, 6, 3)
    found = weighted_soft_binary_cross_entropy(
        s, t, torch.tensor(WEIGHTS[:3]), WEIGHTS[3], temperature
    )
    expected = slow_binary(s, t, WEIGHTS[:3], WEIGHTS[3], temperature)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_a_literal():
    s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3.0)]])
    found = weighted_soft_cross_entropy(s, t, torch.tensor([1.0, 1.5]))
    assert found.item() == pytest.approx((0.25 + 1.5 * 0.75) * math.log(2))
    found = weighted_soft_binary_cross_entropy(s[:, :1], t[:, 1:], torch.tensor([1.0]), 1.5)
    assert found.item() == pytest.approx((0.75 + 1.5 * 0.25) * math.log(2))


def test_with_weights_of_one_and_a_sure_teacher_it_is_torchs_cross_entropy():
    labels = torch.tensor([0, 1, 2, 3, 3, 0])
    sure = F.one_hot(labels, 4) * 200.0
    found = weighted_soft_cross_entropy(logits(0), sure, torch.ones(4))
    torch.testing.assert_close(found, F.cross_entropy(logits(0), labels, reduction='none'))
    s = logits(0, 6, 1)
    found = weighted_soft_binary_cross_entropy(
        s, sure[:, :1] * 2 - 200, torch.ones(1), background_weight=1.0
    )
    expected = F.binary_cross_entropy_with_logits(s, (labels == 0).float()[:, None])
    torch.testing.assert_close(found.mean(), expected)


def test_weights_are_per_class_and_not_per_sample():
    heavy = weighted_soft_cross_entropy(logits(0), logits(1), torch.tensor([1.0, 1, 1, 1.5]))
    even = weighted_soft_cross_entropy(logits(0), logits(1), torch.ones(4))
    p, log_p = logits(1).softmax(-1), logits(0).log_softmax(-1)
    torch.testing.assert_close(heavy - even, -0.5 * p[:, -1] * log_p[:, -1])


def test_with_even_weights_the_gradient_is_that_of_the_kl():
    gradients = []
    for function in (
        lambda s: weighted_soft_cross_entropy(s, logits(1), torch.ones(4), 2.0),
        lambda s: softmax_kl(s, logits(1), 2.0),
    ):
        s = logits(0).requires_grad_()
        function(s).sum().backward()
        gradients.append(s.grad)
    torch.testing.assert_close(*gradients)


def test_two_classes_equal_the_sigmoid_counterpart():
    x, y = logits(0, 5, 1), logits(1, 5, 1)
    both = (torch.cat([z, torch.zeros_like(z)], 1) for z in (x, y))
    softmax = weighted_soft_cross_entropy(*both, torch.tensor([0.7, 1.5]), 2.0)
    sigmoid = weighted_soft_binary_cross_entropy(x, y, torch.tensor([0.7]), 1.5, 2.0)
    torch.testing.assert_close(softmax, sigmoid)


def test_gradients_are_those_of_finite_differences():
    s, t = (logits(seed, 3, 4, dtype=torch.float64) for seed in (0, 1))
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    for function in (weighted_soft_cross_entropy, weighted_soft_binary_cross_entropy):
        s = s.detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, f=function: f(x, t, weights), s)


def test_the_teacher_gets_no_gradient_and_large_logits_stay_finite():
    for function in (weighted_soft_cross_entropy, weighted_soft_binary_cross_entropy):
        s = torch.tensor([[100.0, -100.0, 0.0, 100.0]]).requires_grad_()
        t = (-s.detach()).requires_grad_()
        value = function(s, t, torch.ones(4))
        value.sum().backward()
        assert torch.isfinite(value).all() and torch.isfinite(s.grad).all() and t.grad is None


def test_half_precision_and_strided_logits_are_compared_in_float32():
    s, t = logits(0).half(), logits(1).half()
    found = weighted_soft_cross_entropy(s, t, torch.tensor(WEIGHTS))
    assert found.dtype == torch.float32
    full = weighted_soft_cross_entropy(s.float().T.contiguous().T, t, torch.tensor(WEIGHTS))
    torch.testing.assert_close(found, full)


def test_different_shapes_are_refused():
    with pytest.raises(SetupError, match=r'one shape; got \(6, 4\) from the student and \(6, 5\)'):
        weighted_soft_cross_entropy(logits(0), logits(1, 6, 5), torch.ones(4))


# -- the loss ----------------------------------------------------------------------------------


def parts_of(student, teacher, part: str) -> tuple:
    """Logits of the sampled boxes and the student's own class loss, by hand."""
    own = student.own_losses
    if part == 'roi':
        chosen = student.roi_targets.label_weights > 0
        return student.roi_cls_logits[chosen], teacher.roi_cls_logits[chosen], own['loss_cls']
    chosen = (student.assignment.label_weights > 0) & student.valid
    own = sum(own['loss_rpn_cls' if part == 'rpn' else 'loss_cls'])
    return student.flat_cls_logits[chosen], teacher.flat_cls_logits[chosen], own


def expected(s, t, weights, temperature=1.0, background=1.5, count=None) -> float:
    """The slow loss of the rows, divided by their number, or by another one."""
    if s.shape[-1] == len(weights):
        rows = slow_binary(s.detach(), t, weights, background, temperature)
    else:
        rows = slow(s.detach(), t, (*weights, background), temperature)
    return sum(rows) / (len(rows) if count is None else count)


def divisor(student, part: str) -> int | None:
    """Positives where the head does not sample."""
    return int(student.positives.sum()) if part == 'dense' else None


CASES = {
    'rpn': (two_stage.pair, 1),
    'roi': (two_stage.pair, NUM_CLASSES),
    'dense': (lambda: pairs.pair(pairs.retina()), NUM_CLASSES),
}


@pytest.mark.parametrize('part', CASES)
def test_the_loss_equals_a_slow_loop(part):
    make, classes = CASES[part]
    student, teacher = make()
    s, t, _ = parts_of(student, teacher, part)
    assert len(s) > 40 and not torch.allclose(s, t)
    loss = ClassWeightedSoftCrossEntropy(part, mu=None, temperature=2.0, background_weight=1.3)
    value = loss(student, teacher).item()
    slowly = expected(s, t, (1.0,) * classes, 2.0, 1.3, divisor(student, part))
    assert value == pytest.approx(slowly, rel=1e-4)


@pytest.mark.parametrize('part', CASES)
def test_the_students_own_loss_and_ours_add_up_to_the_mixture(part):
    student, teacher = CASES[part][0]()
    s, t, hard = parts_of(student, teacher, part)
    soft = expected(s, t, (1.0,) * CASES[part][1], count=divisor(student, part))
    value = ClassWeightedSoftCrossEntropy(part, mu=0.3)(student, teacher)
    both = (hard + value).item()
    assert both == pytest.approx(0.3 * hard.item() + 0.7 * soft, rel=1e-4)


def test_the_gradient_of_the_sum_is_that_of_the_mixture():
    student, teacher = two_stage.pair()
    head = student.box_head.fc_cls.weight
    s, t, hard = parts_of(student, teacher, 'roi')
    weights = torch.tensor([1.0] * NUM_CLASSES + [1.5])
    soft = weighted_soft_cross_entropy(s, t, weights).mean()
    value = ClassWeightedSoftCrossEntropy('roi', mu=0.3)(student, teacher)
    ours = torch.autograd.grad(hard + value, head, retain_graph=True)[0]
    mixed = torch.autograd.grad(0.3 * hard + 0.7 * soft, head, retain_graph=True)[0]
    torch.testing.assert_close(ours, mixed, rtol=1e-4, atol=1e-7)


def test_class_weights_and_the_background_column_count():
    student, teacher = two_stage.pair()
    s, t, _ = parts_of(student, teacher, 'roi')
    loss = ClassWeightedSoftCrossEntropy('roi', None, 1.5, class_weights=[0.5, 1.0, 2.0])
    value = loss(student, teacher).item()
    assert value == pytest.approx(expected(s, t, (0.5, 1.0, 2.0)), rel=1e-4)
    only = ClassWeightedSoftCrossEntropy('roi', None, 1.0, class_weights=[0.0] * 3)
    column = -(t.softmax(-1)[:, -1] * s.log_softmax(-1)[:, -1]).mean()
    assert only(student, teacher).item() == pytest.approx(column.item(), rel=1e-4)


def test_a_mu_of_one_changes_nothing():
    student, teacher = two_stage.pair()
    assert ClassWeightedSoftCrossEntropy('roi', mu=1.0)(student, teacher).item() == 0


@pytest.mark.parametrize('host', ['gfl', 'atss', 'fcos'])
def test_other_one_stage_heads_count_what_is_not_padding_and_divide_by_positives(host):
    student, teacher = pairs.pair(pairs.HOSTS[host]())
    value = ClassWeightedSoftCrossEntropy('dense', mu=None)(student, teacher).item()
    chosen = student.sampled
    s, t = student.flat_cls_logits[chosen], teacher.flat_cls_logits[chosen]
    slowly = expected(s, t, (1.0,) * NUM_CLASSES, count=divisor(student, 'dense'))
    assert value == pytest.approx(slowly, rel=1e-3)
    mixed = ClassWeightedSoftCrossEntropy('dense')(student, teacher)
    hard = student.own_losses['loss_cls']
    hard = sum(hard) if isinstance(hard, list) else hard
    assert mixed.item() == pytest.approx(0.5 * (value - hard.item()), rel=1e-4)


def test_a_softmax_one_stage_head_has_its_background_last():
    student, teacher = pairs.pair(
        pairs.retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    )
    s, t, _ = parts_of(student, teacher, 'dense')
    assert s.shape[-1] == NUM_CLASSES + 1
    value = ClassWeightedSoftCrossEntropy('dense', mu=None)(student, teacher).item()
    slowly = expected(s, t, (1.0,) * NUM_CLASSES, count=divisor(student, 'dense'))
    assert value == pytest.approx(slowly, rel=1e-4)


def test_a_one_stage_head_that_samples_divides_by_what_it_sampled():
    config = pairs.retina()
    config['train_cfg']['sampler'] = dict(
        type='RandomSampler',
        num=64,
        pos_fraction=0.5,
        neg_pos_ub=-1,
        add_gt_as_proposals=False,
    )
    student, teacher = pairs.pair(config)
    s, t, _ = parts_of(student, teacher, 'dense')
    assert len(s) <= 128  # 64 of each of two images
    value = ClassWeightedSoftCrossEntropy('dense', mu=None)(student, teacher).item()
    assert value == pytest.approx(expected(s, t, (1.0,) * NUM_CLASSES), rel=1e-4)


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(part='neck'), "part is 'neck'; choose one of 'rpn', 'roi', 'dense'"),
        (dict(part='roi', mu=1.5), 'mu is 1.5.*mu must be 0 to 1'),
        (dict(part='roi', background_weight=-1), 'no weight negative'),
        (dict(part='roi', class_weights=[-1.0]), 'no weight negative'),
        (dict(part='roi', temperature=0), 'temperature is 0; it must be above 0'),
        (dict(part='roi', weight=3), 'takes more than the whole.*a weight of at most 2, or mu=Non'),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        MODELS.build(dict(type='kd_dense.ClassWeightedSoftCrossEntropy', **choice))


def test_what_a_part_misses_in_the_student_is_told():
    one, two = pairs.build(gfl()), two_stage.build()
    loss = ClassWeightedSoftCrossEntropy
    assert loss('dense').demands(one) == [] == loss('rpn').demands(two) == loss('roi').demands(two)
    assert loss('roi').demands(one) == [
        "part 'roi' is one of two-stage detectors, found a GFL; choose 'dense'"
    ]
    assert loss('dense').demands(two) == [
        "part 'dense' is one of one-stage detectors, found a FasterRCNN; choose 'rpn' or 'roi'"
    ]
    assert loss('roi', class_weights=[1.0]).demands(two) == [
        'class_weights has 1 numbers, the head 3 classes'
    ]
    seesaw = two_stage.build(
        two_stage.faster_rcnn(loss_cls=dict(type='SeesawLoss', num_classes=3, p=0.8, q=2.0))
    )
    assert loss('roi').demands(seesaw) == [
        "part 'roi' needs class scores by softmax, found SeesawLoss in Shared2FCBBoxHead"
    ]
