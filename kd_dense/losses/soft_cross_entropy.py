"""Class-weighted soft cross entropy (Chen et al., NIPS 2017), on dense heads and second stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import DenseView
from .base import DistillationLoss, global_divisor
from .checks import check_temperature
from .functional import prepare_logits
from .parts import PARTS, check_part, head_of_part, part_demands


def weighted_soft_cross_entropy(
    student: Tensor, teacher: Tensor, weights: Tensor, temperature: float = 1.0
) -> Tensor:
    """-sum_c w_c P_t(c) log P_s(c) * T^2, P = softmax of logits / T.

    Args:
        student: logits, (..., C).
        teacher: logits, (..., C); detached.
        weights: w of each class, (C,); background last.
        temperature: T, above 0.

    Returns:
        (...), in float32 (float64 for float64 input).

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    log_p_student = F.log_softmax(student / temperature, dim=-1)
    p_teacher = F.softmax(teacher / temperature, dim=-1)
    return -(weights.to(p_teacher) * p_teacher * log_p_student).sum(dim=-1) * temperature**2


def weighted_soft_binary_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    weights: Tensor,
    background_weight: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    """-(w_c p_t log p_s + w_bg (1 - p_t) log (1 - p_s)) * T^2 summed over the classes c.

    The counterpart of :func:`weighted_soft_cross_entropy` for heads whose classes are independent
    and which have no background: with one class and logits (x, 0) both are equal.

    Args:
        student: logits, (..., K); p_s = sigmoid(student / T).
        teacher: logits, (..., K); detached.
        weights: w_c of each class, (K,).
        background_weight: w_bg, of the side on which the object is not of the class.
        temperature: T, above 0.

    Returns:
        (...), in float32 (float64 for float64 input).

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    student, p_teacher = student / temperature, (teacher / temperature).sigmoid()
    positive = weights.to(p_teacher) * p_teacher * F.logsigmoid(student)
    negative = background_weight * (1 - p_teacher) * F.logsigmoid(-student)
    return -(positive + negative).sum(dim=-1) * temperature**2


@MODELS.register_module()
class ClassWeightedSoftCrossEntropy(DistillationLoss):
    r"""Class-weighted soft cross entropy of one head, mixed with the head's own class loss.

    :math:`L_{cls} = \mu L_{hard} + (1 - \mu) L_{soft}` with :math:`L_{soft} = -\sum_c w_c P_t(c)
    \log P_s(c)`, summed over the boxes that the student's own class loss counted and divided as
    that is: by the sampled boxes in two-stage detectors, which makes it a mean, and by the
    positives in one-stage heads that do not sample. A larger weight of the background makes up
    for its mistakes being the ones that matter most [1, section 3.2].

    The student's own class loss :math:`L_{hard}` runs untouched and is logged as ever; this loss is
    :math:`(1 - \mu)(L_{soft} - L_{hard})` with the very value that the student computed, so that
    their sum is the mixture. It may therefore be negative. At a weight w below 1 (or while a
    schedule ramps it up) the sum is the mixture with :math:`1 - w (1 - \mu)` in place of
    :math:`\mu`.

    Sources: [1] Chen, Choi, Yu, Han, Chandraker, "Learning Efficient Object Detection Models with
    Knowledge Distillation", NIPS 2017; no code was published. mu = 0.5 is our choice, the paper
    names none.

    Args:
        part: ``'rpn'`` or ``'roi'`` of a two-stage detector, ``'dense'`` of a one-stage one.
        mu: share of the student's own class loss, 0 to 1; None leaves that loss whole and adds
            the soft one to it.
        background_weight: w of the background: the last column of a softmax head, the side of
            "no object of this class" of a sigmoid head.
        class_weights: w of each foreground class; None for 1.
        temperature: T; the loss is multiplied by its square.
        weight: see :class:`DistillationLoss`.

    Raises:
        SetupError: an unknown part, or a number out of its range.
    """

    def __init__(
        self,
        part: Literal['rpn', 'roi', 'dense'],
        mu: float | None = 0.5,
        background_weight: float = 1.5,
        class_weights: Sequence[float] | None = None,
        temperature: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_part(part)
        check_temperature(temperature)
        weights = [background_weight, *(class_weights or ())]
        if min(weights) < 0 or (mu is not None and not 0 <= mu <= 1):
            raise SetupError(
                f'mu is {mu}, background_weight {background_weight} and class_weights '
                f'{class_weights}; mu must be 0 to 1 (or None), and no weight negative.'
            )
        if mu is not None and weight * (1 - mu) > 1:
            raise SetupError(
                f"weight={weight} with mu={mu} takes more than the whole of the student's own "
                f'class loss away. Choose a weight of at most {1 / (1 - mu):.4g}, or mu=None, '
                'which leaves that loss whole.'
            )
        self.reads = PARTS[part].cls_reads
        self.part = part
        self.mu = mu
        self.background_weight = background_weight
        self.class_weights = class_weights
        self.temperature = temperature

    def demands(self, student: nn.Module) -> list[str]:
        """A head of the part with plain scores, and as many class weights as it has classes."""
        found = part_demands(self.part, student)
        classes = None if found else head_of_part(self.part, student).num_classes
        if not found and self.class_weights and len(self.class_weights) != classes:
            found.append(
                f'class_weights has {len(self.class_weights)} numbers, the head {classes} classes'
            )
        return found

    def forward(self, student: DenseView, teacher: DenseView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        part = PARTS[self.part]
        chosen = part.sampled(student)
        s, t = part.cls_logits(student)[chosen], part.cls_logits(teacher)[chosen]
        classes = head_of_part(self.part, student.model).num_classes
        weights = s.new_tensor(self.class_weights or [1.0] * classes)
        if s.shape[-1] == classes:
            soft = weighted_soft_binary_cross_entropy(
                s, t, weights, self.background_weight, self.temperature
            )
        else:
            weights = torch.cat([weights, weights.new_tensor([self.background_weight])])
            soft = weighted_soft_cross_entropy(s, t, weights, self.temperature)
        loss = soft.sum() / global_divisor(part.divisor(student))
        if self.mu is None:
            return loss
        return (1 - self.mu) * (loss - student.own_loss(part.own_cls_loss).float())
