"""Decoupled knowledge distillation: DKD."""

import math

import pytest
import torch

from kd_dense import DecoupledTargets
from kd_dense.errors import SetupError
from kd_dense.losses import decoupled_kl, softmax_kl
from tests.helpers import pairs, two_stage


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slow(s: list[float], t: list[float], target: int, temperature: float) -> tuple[float, float]:
    def kl(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) * temperature**2

    def softmax(x):
        e = [math.exp(v / temperature) for v in x]
        return [v / sum(e) for v in e]

    p_s, p_t = softmax(s), softmax(t)
    rest_s, rest_t = (softmax([*x[:target], *x[target + 1 :]]) for x in (s, t))
    first = kl((p_t[target], 1 - p_t[target]), (p_s[target], 1 - p_s[target]))
    return first, kl(rest_t, rest_s)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_both_parts_equal_a_slow_loop(temperature):
    s, t, target = logits(6, 5), logits(6, 5, seed=1), torch.tensor([0, 4, 2, 2, 1, 3])
    rows = zip(s.tolist(), t.tolist(), target.tolist(), strict=True)
    expected = torch.tensor([slow(*row, temperature) for row in rows])
    found = torch.stack(decoupled_kl(s, t, target, temperature), dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_weighted_by_what_the_teacher_leaves_to_the_rest_they_are_the_whole():
    s, t, target = logits(6, 5), logits(6, 5, seed=1), torch.tensor([0, 4, 2, 2, 1, 3])
    first, second = decoupled_kl(s, t, target)
    left = 1 - t.softmax(-1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(first + left * second, softmax_kl(s, t))


def test_gradients_extremes_and_half_precision():
    s = logits(4, 3, dtype=torch.float64).requires_grad_()
    t, target = logits(4, 3, seed=1).double().requires_grad_(), torch.tensor([0, 1, 2, 1])
    assert torch.autograd.gradcheck(lambda x: sum(decoupled_kl(x, t, target)), s)
    sum(decoupled_kl(s, t, target)).sum().backward()
    assert t.grad is None
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        sure = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
        value = sum(decoupled_kl(sure, -sure.detach(), torch.tensor([0])))
        value.sum().backward()
        assert value.dtype == torch.float32
        assert value.isfinite().all() and sure.grad.isfinite().all()


def test_two_classes_have_no_rest_to_tell_apart():
    first, second = decoupled_kl(logits(3, 2), logits(3, 2, seed=1), torch.tensor([0, 1, 1]))
    assert first.min() > 0 and not second.any()


def test_the_loss_is_the_mean_over_the_sampled_proposals():
    student, teacher = two_stage.pair()
    chosen = student.roi_sampled
    labels = student.roi_targets.labels[chosen].tolist()
    assert {3, *range(3)} >= set(labels) and 3 in labels  # the background too
    s, t = (view.roi_cls_logits[chosen].tolist() for view in (student, teacher))
    parts = [slow(*row, 2.0) for row in zip(s, t, labels, strict=True)]
    expected = sum(0.7 * a + 3.0 * b for a, b in parts) / len(parts)
    loss = DecoupledTargets(alpha=0.7, beta=3.0, temperature=2.0)
    value = loss(student, teacher)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert student.box_head.fc_cls.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.model.parameters())


def test_what_does_not_fit_is_refused():
    assert DecoupledTargets().demands(two_stage.build()) == []
    (found,) = DecoupledTargets().demands(pairs.build(pairs.gfl()))
    assert "part 'roi' is one of two-stage detectors, found a GFL" in found
    with pytest.raises(SetupError, match=r'alpha is -1\.0 and beta 0\.25'):
        DecoupledTargets(alpha=-1.0)
    with pytest.raises(SetupError, match='temperature is 0'):
        DecoupledTargets(temperature=0)
    with pytest.raises(SetupError, match=r'\(2, 3\) from the student and \(2, 4\)'):
        decoupled_kl(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2).long())
