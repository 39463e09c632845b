"""Queries matched with what a teacher finds, one to one (Chang et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts.detr import match_costs
from ..registry import MODELS
from ..views import Detections, DetrView, View, host_info
from ..views.info import MATCHES
from .base import global_divisor
from .checks import check_count
from .queries import OnQueries, class_divergence


@MODELS.register_module()
class QueryMatching(OnQueries):
    r"""Each object that the teacher finds teaches the query of the student's that is closest to it.

    The objects are those of the teacher's last layer with a score above a threshold; or, of a
    teacher that is no detection transformer, the boxes that it predicts, each of one class. In each
    layer of the student's decoder they are matched one to one with its queries, by the costs of the
    student's own assigner, that of the classes in expectation over the object's scores:
    weight * :math:`\sum_l \sum_i w_i \, (cls \cdot KL(p_i || P(s_{m_l(i)})) + l1 \cdot
    ||b_i - b_{m_l(i)}||_1 + giou \cdot (1 - GIoU(b_i, b_{m_l(i)}))) / \sum_i w_i` over the layers l
    and objects i, with boxes as shares of the image and :math:`w_i` the object's best score.
    Queries without an object are left to the student's own loss. Softmax and sigmoid heads may
    teach each other.

    Sources: [1] Chang et al., "DETRDistill: A Universal Knowledge Distillation Framework for
    DETR-families", ICCV 2023, arXiv 2211.10156: its matching of predictions.

    Differs from [1]: all layers learn from the teacher's last one, so that numbers of layers need
    not agree; objects of low scores teach nothing; the divisor is that of all ranks; features and
    query priors are not distilled. Threshold and number of objects are our choice.

    Args:
        weight: see :class:`DistillationLoss`.
        cls, l1, giou: what the three parts count.
        threshold: of the best score, from 0 on; objects above it teach.
        top: how many objects of an image teach at most, those of the best scores.

    Raises:
        SetupError: a value out of its range.
    """

    reads = ('detections',)

    def __init__(
        self,
        weight: float = 1.0,
        cls: float = 1.0,
        l1: float = 5.0,
        giou: float = 2.0,
        threshold: float = 0.05,
        top: int = 100,
    ) -> None:
        super().__init__(weight, cls, l1, giou)
        if not 0 <= threshold < 1:
            raise SetupError(f'threshold is {threshold!r}; it is a score, from 0 to below 1.')
        check_count('top', top)
        self.threshold = threshold
        self.top = top

    def demands(self, student: nn.Module) -> list[str]:
        """A detection transformer whose own assigner matches by costs."""
        found = super().demands(student)
        if not found and MATCHES not in host_info(student).abilities:
            found.append(
                "it matches by the costs of the head's own HungarianAssigner, which this "
                f'{host_info(student).head} does not have'
            )
        return found

    def forward(self, student: DetrView, teacher: View) -> Tensor:
        """The raw loss of one batch, a scalar."""
        logits, boxes = student.query_logits, student.query_boxes
        total, weights = (logits.sum() + boxes.sum()) * 0, logits.new_zeros(())
        sizes = student.batch.image_sizes()
        shown: Any = teacher
        for image, (found, size) in enumerate(zip(shown.detections, sizes, strict=True)):
            objects, scores = self._best(found)
            if not len(scores):
                continue
            for layer in range(len(logits)):
                ours = logits[layer, image], boxes[layer, image]
                mine, theirs = matched(student.head, *ours, objects, size)
                classes = class_divergence(
                    ours[0][mine], objects.scores[theirs], student.activation
                )
                apart = self.differences(classes, ours[1][mine], objects.boxes[theirs])
                total = total + (scores[theirs] * apart).sum()
            weights = weights + scores.sum()
        return total / global_divisor(weights)

    def _best(self, found: Detections) -> tuple[Detections, Tensor]:
        """The objects that teach, with their best scores."""
        scores, boxes = (each.detach().float() for each in found)
        if not len(scores):
            return Detections(scores, boxes), scores.new_zeros(0)
        best, order = scores.amax(dim=1).topk(min(self.top, len(scores)))
        order = order[best > self.threshold]
        return Detections(scores[order], boxes[order]), best[best > self.threshold]


@torch.no_grad()
def matched(
    head: nn.Module, logits: Tensor, boxes: Tensor, objects: Detections, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Match queries with objects one to one, at the least sum of a head's own matching costs.

    Args:
        head: whose assigner is known.
        logits: of the queries, (Q, K) or (Q, K + 1).
        boxes: of the queries, (cx, cy, w, h) as shares of the image, (Q, 4).
        objects: B objects.
        size: (height, width) of the image in pixels.

    Returns:
        indices of queries and of objects, each (min(Q, B),).
    """
    height, width = size
    pixels = boxes.new_tensor([width, height, width, height])
    costs = match_costs(
        head,
        logits,
        bbox_cxcywh_to_xyxy(boxes) * pixels,
        objects.scores,
        bbox_cxcywh_to_xyxy(objects.boxes) * pixels,
        size,
    )
    rows, columns = linear_sum_assignment(costs.nan_to_num(0.0).cpu())
    device = boxes.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)
