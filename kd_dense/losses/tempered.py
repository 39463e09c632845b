"""The student's own cross entropy at a temperature."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import MODELS
from .base import DistillationLoss
from .checks import check_choice, check_temperature
from .labelled import DECODE, MIXED, labelled, mixture_demands, own_share


@MODELS.register_module()
class TemperedCrossEntropy(DistillationLoss):
    """The labels are compared at a temperature: CE(s/T) in the place of the student's own CE(s).

    The own class loss runs and is logged untouched; this loss is CE(s/T) - CE(s) with the very
    elements, weights and divisor of the own one, so that their sum is CE(s/T). It may be negative.
    The teacher is not looked at. Hinton et al. compare the labels at T = 1; published code that
    divides the logits by T before all else compares them so.

    Args:
        temperature: T.
        part: ``'decode'`` of a segmentor or ``'roi'`` of a two-stage detector.
        weight: see :class:`DistillationLoss`.

    Raises:
        SetupError: an unknown part, or a temperature that is not positive.
    """

    def __init__(
        self,
        temperature: float,
        part: Literal['decode', 'roi'] = 'decode',
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_choice('part', part, MIXED)
        check_temperature(temperature)
        self.reads = ('seg_logits',) if part == DECODE else ('roi_cls_logits',)
        self.temperature = temperature
        self.part = part

    def demands(self, student: nn.Module) -> list[str]:
        """A head of the part whose own class loss is a plain cross entropy."""
        return mixture_demands(self.part, student)

    def forward(self, student: Any, teacher: Any) -> Tensor:
        """The raw loss of one batch, a scalar."""
        sums = []
        for rows in labelled(self.part, student, teacher):
            s, labels = rows.student, rows.labels
            tempered = F.cross_entropy(s / self.temperature, labels, reduction='none')
            own = F.cross_entropy(s, labels, reduction='none')
            sums.append((rows.weights * (tempered - own)).sum())
        return torch.stack(sums).sum() * own_share(self.part, student)
