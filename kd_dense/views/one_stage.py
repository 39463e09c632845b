"""The view of one-stage detectors: mmdet's ``SingleStageDetector`` and its kin.

Shapes as in :mod:`kd_dense.views.dense`.
"""

from __future__ import annotations

from functools import cached_property

import torch
from mmdet.models.dense_heads import AnchorHead, FCOSHead, GFLHead
from mmdet.models.detectors import SingleStageDetector
from torch import Tensor, nn

from .base import HostInfo
from .dense import DenseView
from .heads import anchors_of, strides_of


class OneStageView(DenseView):
    """What losses may look at in a one-stage detector for one batch."""

    family = 'one-stage'

    @staticmethod
    def head_of(model: nn.Module) -> nn.Module:
        """The box head."""
        return model.bbox_head

    @staticmethod
    def describes(model: nn.Module) -> bool:
        """Whether this view fits the model."""
        return isinstance(model, SingleStageDetector) and isinstance(
            getattr(model, 'bbox_head', None), AnchorHead | FCOSHead
        )

    @staticmethod
    def describe(model: nn.Module) -> HostInfo:
        """What of the model has to agree between teacher and student."""
        head = model.bbox_head
        bins = getattr(head, 'reg_max', None)
        return HostInfo(
            family=OneStageView.family,
            strides=strides_of(head),
            num_classes=head.num_classes,
            activation='sigmoid' if head.use_sigmoid_cls else 'softmax',
            num_anchors=getattr(head, 'num_base_priors', 1),
            boxes=f'distribution over {bins + 1} bins'
            if isinstance(head, GFLHead)
            else f'4 values by {type(getattr(head, "bbox_coder", head)).__name__}',
            head=type(head).__name__,
            anchors='' if getattr(head, 'num_base_priors', 1) == 1 else anchors_of(head),
        )

    @cached_property
    def decoded_boxes(self) -> Tensor:
        """Predicted boxes of a GFL-like head, xyxy in pixels, (N, P, 4)."""
        head = self.head
        sizes = [f.shape[-2:] for f in self.features]
        logits = self.flat_box_logits
        anchors = head.prior_generator.grid_priors(sizes, device=logits.device)
        centres = head.anchor_center(torch.cat(anchors))
        strides = self.level_index.new_tensor(self.strides)
        bins = logits.shape[-1] // 4
        steps = torch.arange(bins, device=logits.device, dtype=logits.dtype)
        distances = logits.reshape(*logits.shape[:2], 4, bins).softmax(dim=-1) @ steps
        distances = distances * strides[self.level_index][None, :, None]
        low, high = distances[..., :2], distances[..., 2:]
        return torch.cat([centres - low, centres + high], dim=-1)

    def _predict(self, boxes: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        head = self.head
        if type(head).forward_single is not GFLHead.forward_single:
            return super()._predict(boxes)
        features = self.features
        with self._context():
            return ([], _box_tower(head, features)) if boxes else (_cls_tower(head, features), [])


def _cls_tower(head: GFLHead, features: tuple[Tensor, ...]) -> list[Tensor]:
    """The classification half of a GFL head's forward pass."""
    return [head.gfl_cls(_through(head.cls_convs, feature)) for feature in features]


def _box_tower(head: GFLHead, features: tuple[Tensor, ...]) -> list[Tensor]:
    """The regression half of a GFL head's forward pass."""
    return [
        scale(head.gfl_reg(_through(head.reg_convs, feature))).float()
        for feature, scale in zip(features, head.scales, strict=True)
    ]


def _through(layers: nn.ModuleList, feature: Tensor) -> Tensor:
    for layer in layers:
        feature = layer(feature)
    return feature
