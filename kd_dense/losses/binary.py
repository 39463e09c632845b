"""Binary classification distillation and IoU-based localization distillation (Yang et al. 2023)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from ..errors import SetupError
from ..registry import MODELS
from ..views import OneStageView, host_info
from ..views.info import BOXES
from .base import DistillationLoss, global_divisor
from .checks import check_choice
from .functional import prepare_logits
from .parts import part_demands
from .regions import levels_with_positives, main_region


def binary_distillation(student: Tensor, teacher: Tensor, detach_weight: bool = False) -> Tensor:
    """``|p_t - p_s| * BCE(s, p_t)``, p = sigmoid: how two models differ in each binary problem.

    Source: Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense
    Object Detection", ICCV 2023, arXiv 2308.14286.

    Args:
        student: logits s, any shape.
        teacher: logits t, same shape; detached.
        detach_weight: whether ``|p_t - p_s|`` passes no gradient. It does in the authors' code.

    Returns:
        same shape, in float32 (float64 for float64 input); 0 where both are equal.

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    p_teacher = teacher.sigmoid()
    weight = (p_teacher - student.sigmoid()).abs()
    if detach_weight:
        weight = weight.detach()
    return weight * F.binary_cross_entropy_with_logits(student, p_teacher, reduction='none')


def box_disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - GIoU of pairs of boxes.

    Source: Rezatofighi et al., arXiv 1902.09630.

    Args:
        student: boxes, xyxy in pixels, (B, 4).
        teacher: same shape; detached.

    Returns:
        (B,), in float32 (float64 for float64 input), 0 to 2.

    Raises:
        SetupError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise SetupError(
            f'Boxes must have one shape; got {tuple(student.shape)} from the student and '
            f'{tuple(teacher.shape)} from the teacher.'
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.detach().to(dtype)
    return generalized_box_iou_loss(student, teacher, reduction='none')


class _OnAllPositions(DistillationLoss):
    """A sum over all positions of a dense head, divided by the student's positives.

    Args:
        weight: see :class:`DistillationLoss`.
        variant: ``'paper'`` or ``'reference'``.

    Raises:
        SetupError: an unknown variant.
    """

    def __init__(self, weight: float, variant: str) -> None:
        super().__init__(weight)
        check_choice('variant', variant, ('paper', 'reference'))
        self.variant = variant

    def demands(self, student: nn.Module) -> list[str]:
        """A one-stage head with a known assignment, whose classes are independent."""
        found = part_demands('dense', student)
        if not found and host_info(student).activation != 'sigmoid':
            found.append('it compares classes one by one, and this head scores them by softmax')
        return found

    def chosen(self, student: OneStageView) -> Tensor:
        """Which predictions count; bool, (N, P)."""
        eligible = student.eligible
        if self.variant == 'paper':
            return eligible
        return eligible & levels_with_positives(student)[student.level_index]

    def divided(self, total: Tensor, student: OneStageView) -> Tensor:
        """A sum divided by the positives of all ranks."""
        return total / global_divisor(main_region(student, student).sum())


@MODELS.register_module()
class BinaryDistillation(_OnAllPositions):
    r"""Each class of each position is a binary problem, weighted by the disagreement: BCKD.

    weight * :math:`\sum_i \sum_j |\sigma(t_{ij}) - \sigma(s_{ij})| \, BCE(s_{ij}, \sigma(t_{ij}))`
    / positives of the student's own assignment, over all positions i that are not padding and all
    classes j.

    Sources: [1] Yang et al., ICCV 2023, arXiv 2308.14286; [2] the authors' code, weight 1.

    Differs from [2], in which a level without positives teaches nothing, although none are needed;
    ``variant='reference'`` does so.

    Args:
        weight: see :class:`DistillationLoss`.
        detach_weight: whether the disagreement passes no gradient; it does in [2].
        variant: ``'paper'`` or ``'reference'``.

    Raises:
        SetupError: an unknown variant.
    """

    reads = ('cls_logits', 'assignment')

    def __init__(
        self,
        weight: float = 1.0,
        detach_weight: bool = False,
        variant: Literal['paper', 'reference'] = 'paper',
    ) -> None:
        super().__init__(weight, variant)
        self.detach_weight = detach_weight

    def forward(self, student: OneStageView, teacher: OneStageView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        mask = self.chosen(student)
        s, t = student.flat_cls_logits[mask], teacher.flat_cls_logits[mask]
        return self.divided(binary_distillation(s, t, self.detach_weight).sum(), student)


@MODELS.register_module()
class BoxIoUDistillation(_OnAllPositions):
    r"""Each position's box is the teacher's, weighted by the disagreement on its classes: BCKD.

    weight * :math:`\sum_i \max_j |\sigma(t_{ij}) - \sigma(s_{ij})| \, (1 - GIoU(b_i^s, b_i^t))` /
    positives of the student's own assignment, over all positions i that are not padding; the
    weights pass no gradient. Each head's boxes are decoded its own way: encodings may differ.

    Sources: [1] Yang et al., ICCV 2023, arXiv 2308.14286; [2] the authors' code, weight 4.

    Differs from [2] as :class:`BinaryDistillation` does.

    Args:
        weight: see :class:`DistillationLoss`.
        variant: ``'paper'`` or ``'reference'``.

    Raises:
        SetupError: an unknown variant.
    """

    reads = ('cls_logits', 'decoded_boxes', 'assignment')

    def __init__(
        self, weight: float = 4.0, variant: Literal['paper', 'reference'] = 'paper'
    ) -> None:
        super().__init__(weight, variant)

    def demands(self, student: nn.Module) -> list[str]:
        """What :class:`BinaryDistillation` asks, and boxes that can be decoded."""
        found = super().demands(student)
        if not found and BOXES not in host_info(student).abilities:
            found.append(
                "it compares boxes, which are decoded of heads as mmdet's GFLHead, ATSSHead, "
                f'RetinaHead and FCOSHead, found {host_info(student).head}'
            )
        return found

    def forward(self, student: OneStageView, teacher: OneStageView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        mask = self.chosen(student)
        s, t = student.flat_cls_logits[mask].detach(), teacher.flat_cls_logits[mask]
        weights = (t.sigmoid() - s.sigmoid()).abs().amax(dim=-1)
        errors = box_disagreement(student.decoded_boxes[mask], teacher.decoded_boxes[mask])
        return self.divided((weights * errors).sum(), student)
