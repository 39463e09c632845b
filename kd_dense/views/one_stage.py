"""The view of one-stage detectors: mmdet's ``SingleStageDetector`` and its kin.

Shapes as in :mod:`kd_dense.views.dense`.
"""

from __future__ import annotations

from torch import Tensor

from ..hosts import Host
from ..hosts.heads import (
    anchors_of,
    box_tower,
    cls_tower,
    decode_boxes,
    is_one_stage,
    predicts_bins,
    runs_towers_apart,
)
from ..registry import VIEWS
from .dense import DenseView
from .info import HostInfo
from .readable import readable


@VIEWS.register_module()
class OneStageView(DenseView):
    """What losses may look at in a one-stage detector for one batch."""

    family = 'one-stage'

    @staticmethod
    def head_of(model: Host) -> Host:
        """The box head."""
        return model.bbox_head

    @staticmethod
    def fits(model: Host) -> bool:
        """Whether this view fits a model."""
        return is_one_stage(model)

    @classmethod
    def describe(cls, model: Host) -> HostInfo:
        """Read off a model what two models may have to agree in."""
        head = model.bbox_head
        dense = cls._dense_info(head)
        return HostInfo(
            **dense,
            num_classes=head.num_classes,
            boxes=f'distribution over {head.reg_max + 1} bins'
            if predicts_bins(head)
            else f'4 values by {type(getattr(head, "bbox_coder", head)).__name__}',
            head=type(head).__name__,
            anchors='' if dense['num_anchors'] == 1 else anchors_of(head),
        )

    @readable(agree=('family', 'strides', 'num_anchors', 'anchors'))
    def decoded_boxes(self) -> Tensor:
        """Predicted boxes, xyxy in pixels, (N, P, 4), of heads whose encoding is known."""
        strides = self.level_index.new_tensor(self.strides)[self.level_index]
        return decode_boxes(self.head, self.flat_box_logits, self.anchors, strides)

    def _class_maps(self) -> list[Tensor]:
        if not runs_towers_apart(self.head):
            return super()._class_maps()
        features = self.features
        with self._context():
            return cls_tower(self.head, features)

    def _box_maps(self) -> list[Tensor]:
        if not runs_towers_apart(self.head):
            return super()._box_maps()
        features = self.features
        with self._context():
            return box_tower(self.head, features)
