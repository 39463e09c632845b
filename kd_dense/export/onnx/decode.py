"""Boxes and scores of a whole batch from the maps of a head, as plain tensor operations.

mmdet decodes image by image, and only what passes its thresholds; a graph wants all of it at once.

Letters: N images, P predictions, K classes. Boxes are xyxy in pixels.
"""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import AnchorHead, FCOSHead, GFLHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from mmdet.structures.bbox import distance2bbox
from torch import Tensor, nn

from ...hosts.heads import flatten_levels, strides_of

Maps = list[Tensor] | tuple[Tensor, ...]


def clip(boxes: Tensor, size: tuple[Tensor | int, Tensor | int]) -> Tensor:
    """Keep boxes inside an image.

    Args:
        boxes: (..., 4).
        size: height and width.
    """
    height, width = (torch.as_tensor(s, dtype=boxes.dtype, device=boxes.device) for s in size)
    limit = torch.stack([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def boxes_from_deltas(anchors: Tensor, deltas: Tensor, coder: DeltaXYWHBBoxCoder) -> Tensor:
    """Boxes from deltas, as mmdet's coder decodes them, not clipped.

    Args:
        anchors: (..., 4), of a shape that expands to that of ``deltas``.
        deltas: (..., 4).
        coder: knows means, standard deviations and limits.
    """
    rows = delta2bbox(
        anchors.expand_as(deltas).reshape(-1, 4),
        deltas.reshape(-1, 4),
        coder.means,
        coder.stds,
        add_ctr_clamp=coder.add_ctr_clamp,
        ctr_clamp=coder.ctr_clamp,
    )
    return rows.reshape(deltas.shape)


def can_decode(head: nn.Module) -> bool:
    """Whether :func:`decode` knows how a dense head predicts."""
    if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False):
        return False
    if isinstance(head, GFLHead):
        return type(head)._predict_by_feat_single is GFLHead._predict_by_feat_single
    return (
        isinstance(head, AnchorHead | FCOSHead)
        and type(head)._predict_by_feat_single is BaseDenseHead._predict_by_feat_single
        and type(head).predict_by_feat is BaseDenseHead.predict_by_feat
        and type(getattr(head, 'bbox_coder', None)) in (DeltaXYWHBBoxCoder, DistancePointBBoxCoder)
    )


def decode(head: nn.Module, *maps: Maps) -> tuple[Tensor, Tensor]:
    """All boxes and scores of a dense head.

    Args:
        head: see :func:`can_decode`.
        maps: what its forward pass returned: of all levels the class maps, the box maps, and the
            maps of centreness where it has them.

    Returns:
        boxes, (N, P, 4), not clipped, and scores from 0 to 1, (N, P, K), by which mmdet ranks.
    """
    classes, boxes = maps[:2]
    logits = flatten_levels(classes, head.cls_out_channels)
    scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(dim=-1)[..., :-1]
    if len(maps) > 2:
        scores = scores * flatten_levels(maps[2], 1).sigmoid()
    sizes = [level.shape[-2:] for level in classes]
    priors = head.prior_generator.grid_priors(sizes, device=scores.device)
    boxes_of = _from_bins if isinstance(head, GFLHead) else _from_values
    return boxes_of(head, priors, boxes), scores


def _from_bins(head: GFLHead, priors: list[Tensor], maps: Maps) -> Tensor:
    """The means of distributions over bins, in strides."""
    levels = []
    for level, stride in zip(maps, strides_of(head), strict=True):
        bins = flatten_levels([level], 4 * (head.reg_max + 1))
        levels.append(head.integral(bins).reshape(level.shape[0], -1, 4) * stride)
    return distance2bbox(head.anchor_center(torch.cat(priors)), torch.cat(levels, dim=1))


def _from_values(head: nn.Module, priors: list[Tensor], maps: Maps) -> Tensor:
    values = flatten_levels(maps, 4)
    if isinstance(head.bbox_coder, DistancePointBBoxCoder):
        return distance2bbox(torch.cat(priors), values)
    return boxes_from_deltas(torch.cat(priors), values, head.bbox_coder)
