"""The view of hosts whose heads are not known here: their features, and nothing else.

Cascades, DETR and its kin, mask transformers and other models of mmdet and mmseg can teach, and be
taught, by hints and PKD.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..hosts.heads import classifier_of
from ..registry import VIEWS
from .detections import PredictingView
from .info import HostInfo
from .view import Note, as_levels, probe


@VIEWS.register_module()
class FeatureView(PredictingView):
    """What losses on features may look at in any host for one batch."""

    family = 'features-only'

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether this view fits a model."""
        return callable(getattr(model, 'extract_feat', None)) and hasattr(model, 'backbone')

    @classmethod
    def describe(cls, model: nn.Module) -> HostInfo:
        """Read off a model what two models may have to agree in."""
        head = classifier_of(model)
        return HostInfo(
            family=cls.family,
            strides=probe(model, cls).strides,
            num_classes=getattr(head, 'num_classes', 0),
            activation='unknown',
            boxes='unknown',
            head=type(head).__name__,
        )

    @staticmethod
    def head_of(model: nn.Module) -> nn.Module:
        """The head that knows the classes."""
        return classifier_of(model)

    def outputs(self) -> list[Tensor]:
        """The features."""
        return list(self.features)

    def _notes(self) -> list[Note]:
        def note_features(_: tuple, features: Any) -> None:
            self.features = as_levels(features)

        return [*super()._notes(), (self.model, 'extract_feat', note_features)]
