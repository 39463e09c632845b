"""What losses on the queries of detection transformers share: one object compared with another.

Shapes: Q compared queries, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from ..views import DetrView, view_class
from .base import DistillationLoss
from .binary import box_disagreement
from .checks import check_not_negative

# GIoU is the same at any scale, but for an epsilon on the areas: at this one it is small
LARGE = 1024


def class_divergence(logits: Tensor, scores: Tensor, activation: str) -> Tensor:
    """KL(P(object) || P(query)) of the classes: Bernoullis, or one distribution with background.

    Args:
        logits: of the queries, (..., K), or (..., K + 1) with the background last.
        scores: probabilities of the objects' classes, (..., K); detached. For a distribution what
            they lack to 1 is the background's; where they exceed 1 they are scaled down to it.
        activation: ``'sigmoid'`` or ``'softmax'``, of the logits.

    Returns:
        (...), in float32 (float64 for float64 input); 0 where both are equal.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, scores = logits.to(dtype), scores.detach().to(dtype).clamp(0, 1)
    if activation == 'sigmoid':
        cross = F.binary_cross_entropy_with_logits(logits, scores, reduction='none')
        return (cross + _self_information(scores) + _self_information(1 - scores)).sum(dim=-1)
    total = scores.sum(dim=-1, keepdim=True)
    scores = torch.cat([scores / total.clamp(min=1), (1 - total).clamp(min=0)], dim=-1)
    cross = -(scores * F.log_softmax(logits, dim=-1)).sum(dim=-1)
    return cross + _self_information(scores).sum(dim=-1)


def _self_information(scores: Tensor) -> Tensor:
    return torch.xlogy(scores, scores)


def box_differences(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """How much boxes differ: the sum of the absolute differences, and 1 - GIoU.

    Args:
        ours: (cx, cy, w, h) as shares of the image, (..., 4).
        theirs: same shape; detached.

    Returns:
        both (...), in float32 (float64 for float64 input).
    """
    dtype = torch.promote_types(ours.dtype, torch.float32)
    ours, theirs = ours.to(dtype), theirs.detach().to(dtype)
    apart = box_disagreement(*(bbox_cxcywh_to_xyxy(each * LARGE) for each in (ours, theirs)))
    return (ours - theirs).abs().sum(dim=-1), apart


class OnQueries(DistillationLoss):
    """What queries of a student answer and what a teacher says, weighted by the teacher's score.

    Args:
        weight: see :class:`DistillationLoss`.
        cls, l1, giou: what the divergence of the classes, the absolute difference of the boxes and
            their 1 - GIoU count.

    Raises:
        SetupError: one of them is no finite number, 0 or more.
    """

    def __init__(self, weight: float, cls: float, l1: float, giou: float) -> None:
        super().__init__(weight)
        for name, value in dict(cls=cls, l1=l1, giou=giou).items():
            check_not_negative(name, value)
        self.cls, self.l1, self.giou = cls, l1, giou

    def demands(self, student: nn.Module) -> list[str]:
        """A detection transformer."""
        view = view_class(student)
        if issubclass(view, DetrView):
            return []
        return [
            'it teaches the queries of detection transformers (DETR, Conditional DETR, DAB-DETR, '
            f'Deformable DETR, DINO, DDQ), found a {type(student).__name__} ({view.family}); '
            'losses on features and on dense heads serve other students'
        ]

    def differences(self, classes: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
        """How much each answer differs from what the teacher says, (...).

        Args:
            classes: the divergence of the classes, (...).
            ours, theirs: boxes, see :func:`box_differences`.
        """
        distance, apart = box_differences(ours, theirs)
        return self.cls * classes + self.l1 * distance + self.giou * apart
