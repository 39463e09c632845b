"""Decoupled knowledge distillation of a second stage's classes (Zhao et al., CVPR 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import TwoStageView
from .base import DistillationLoss, global_divisor
from .checks import check_temperature
from .functional import prepare_logits
from .parts import part_demands


def decoupled_kl(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """KL(P_t || P_s) * T^2 in two parts: the target class against the rest, and among the rest.

    With p the teacher's probability of the target, ``KL = first + (1 - p) * second`` at T = 1 [1].

    Sources: [1] Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679.

    Args:
        student: logits, (B, C).
        teacher: logits, (B, C); detached.
        target: class of each row, 0 to C-1, (B,).
        temperature: T, above 0.

    Returns:
        both parts, (B,) each, in float32 (float64 for float64 input); the second is 0 where C is 2.

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    hit = F.one_hot(target, student.shape[-1]).bool()
    binary, others = [], []
    for logits in (student / temperature, teacher / temperature):
        rest = logits.masked_fill(hit, -torch.inf)
        both = torch.stack([logits[hit], rest.logsumexp(dim=-1)], dim=-1)
        binary.append(both.log_softmax(dim=-1))
        others.append(rest.log_softmax(dim=-1).masked_fill(hit, 0.0))
    parts = []
    for log_s, log_t in (binary, others):
        parts.append((log_t.exp() * (log_t - log_s)).sum(dim=-1) * temperature**2)
    return parts[0], parts[1]


@MODELS.register_module()
class DecoupledTargets(DistillationLoss):
    """What the teacher knows of the target class, and of all others, each with a weight: DKD.

    weight * sum of (alpha * target against the rest + beta * among the rest) over the student's
    sampled proposals / their number, global over ranks. The target is the proposal's own label,
    background included; the teacher scores the student's proposals. In plain soft targets the
    second part is weighted by what the teacher leaves to the rest, which is next to nothing where
    it is sure.

    Sources: [1] Zhao et al., CVPR 2022, arXiv 2203.08679; alpha = 1, beta = 0.25, T = 1 for
    detectors, by its code. Not defined for heads whose classes are independent; take
    :class:`~kd_dense.losses.binary.BinaryDistillation` there.

    Args:
        alpha: of the target class against the rest.
        beta: of the distribution among the rest.
        temperature: T.
        weight: see :class:`DistillationLoss`.

    Raises:
        SetupError: a negative share, or a temperature that is not positive.
    """

    reads = ('roi_cls_logits',)

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.25,
        temperature: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_temperature(temperature)
        if min(alpha, beta) < 0:
            raise SetupError(f'alpha is {alpha} and beta {beta}; neither may be negative.')
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def demands(self, student: nn.Module) -> list[str]:
        """A second stage that scores classes by softmax."""
        return part_demands('roi', student)

    def forward(self, student: TwoStageView, teacher: TwoStageView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        chosen = student.roi_sampled
        s, t = student.roi_cls_logits[chosen], teacher.roi_cls_logits[chosen]
        labels = student.roi_targets.labels[chosen]
        target, rest = decoupled_kl(s, t, labels, self.temperature)
        total = self.alpha * target + self.beta * rest
        return total.sum() / global_divisor(chosen.sum())
