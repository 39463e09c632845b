"""The view of hosts whose heads are not known here: their features, and nothing else.

Cascades, DETR and its kin, mask transformers and other models of mmdet and mmseg can teach, and be
taught, by hints and PKD.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import HostInfo
from .view import Note, View, probe

CLASSIFIERS = ('bbox_head', 'decode_head', 'panoptic_head', 'mask_head')


class FeatureView(View):
    """What losses on features may look at in any host for one batch."""

    family = 'features-only'

    @staticmethod
    def describes(model: nn.Module) -> bool:
        """Whether this view fits the model."""
        return callable(getattr(model, 'extract_feat', None)) and hasattr(model, 'backbone')

    @staticmethod
    def describe(model: nn.Module) -> HostInfo:
        """What of the model has to agree between teacher and student."""
        head = _classifier(model)
        return HostInfo(
            family=FeatureView.family,
            strides=probe(model, FeatureView).strides,
            num_classes=getattr(head, 'num_classes', 0),
            activation='unknown',
            num_anchors=1,
            boxes='unknown',
            head=type(head).__name__,
        )

    @staticmethod
    def head_of(model: nn.Module) -> nn.Module:
        """The head that knows the classes."""
        return _classifier(model)

    def outputs(self) -> list[Tensor]:
        """The features."""
        return list(self.features)

    def _notes(self) -> list[Note]:
        def note_features(_: tuple, features: Any) -> None:
            self.features = tuple(features)

        return [*super()._notes(), (self.model, 'extract_feat', note_features)]


def _classifier(model: nn.Module) -> nn.Module:
    """The head that knows the classes, the last one of a cascade; else the model itself."""
    roi_head = getattr(model, 'roi_head', None)
    for owner in (model, roi_head):
        for name in CLASSIFIERS:
            head = getattr(owner, name, None)
            if isinstance(head, nn.ModuleList) and len(head):
                head = head[-1]
            if isinstance(head, nn.Module):
                return head
    return model
