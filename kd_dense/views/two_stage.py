"""The view of two-stage detectors: mmdet's Faster R-CNN, Mask R-CNN and their kin.

What a dense head has (logits, assignment, positives and so on) is that of the region proposal
network, as in :mod:`kd_dense.views.dense`. Shapes: R proposals of all images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import Tensor, nn

from ..errors import SetupError
from .base import HostInfo
from .dense import DenseView
from .heads import anchors_of, strides_of
from .view import Note

OF_PROPOSALS = ('proposals', 'roi_cls_logits', 'roi_deltas')  # the student's


class RoITargets(NamedTuple):
    """What the student's second stage was trained to say of its sampled proposals.

    Attributes:
        labels: (R,), 0 to K-1 for positives, K for background.
        label_weights: what each label counts in the class loss, (R,).
        box_targets: deltas as the head encodes them, (R, 4), 0 for background; boxes, xyxy in
            pixels, where the head has ``reg_decoded_bbox``.
    """

    labels: Tensor
    label_weights: Tensor
    box_targets: Tensor


class TwoStageView(DenseView):
    """What losses may look at in a two-stage detector for one batch.

    A teacher's view scores the student's sampled proposals on the teacher's own features, when
    ``roi_cls_logits`` or ``roi_deltas`` is first read; its own proposals are never made.
    """

    family = 'two-stage'

    @staticmethod
    def head_of(model: nn.Module) -> nn.Module:
        """The region proposal network's head."""
        return model.rpn_head

    @staticmethod
    def describes(model: nn.Module) -> bool:
        """Whether this view fits the model."""
        roi_head = getattr(model, 'roi_head', None)
        box_head = getattr(roi_head, 'bbox_head', None)
        return (
            isinstance(model, TwoStageDetector)
            and type(model).loss is TwoStageDetector.loss  # Trident's repeats each image
            and isinstance(getattr(model, 'rpn_head', None), RPNHead)
            and isinstance(roi_head, StandardRoIHead)
            and isinstance(box_head, BBoxHead)
            and type(box_head).get_targets is BBoxHead.get_targets
        )

    @staticmethod
    def describe(model: nn.Module) -> HostInfo:
        """What of the model has to agree between teacher and student."""
        rpn, box_head = model.rpn_head, model.roi_head.bbox_head
        scores = 'sigmoid' if getattr(box_head.loss_cls, 'use_sigmoid', False) else 'softmax'
        if box_head.custom_cls_channels:
            scores = type(box_head.loss_cls).__name__
        return HostInfo(
            family=TwoStageView.family,
            strides=strides_of(rpn),
            num_classes=box_head.num_classes,
            activation='sigmoid' if rpn.use_sigmoid_cls else 'softmax',
            num_anchors=rpn.num_base_priors,
            boxes=f'4 values by {type(rpn.bbox_coder).__name__}',
            head=type(box_head).__name__,
            anchors=anchors_of(rpn),
            roi_scores=scores,
            roi_boxes=f'4 values by {type(box_head.bbox_coder).__name__}'
            if box_head.with_reg
            else 'none',
        )

    def read_ahead(self, names: Iterable[str]) -> None:
        """Compute what needs no student to have run: of proposals, the features alone.

        Args:
            names: of properties.
        """
        super().read_ahead({'features' if n in OF_PROPOSALS else n: None for n in names})

    @property
    def box_head(self) -> nn.Module:
        """The second stage's head."""
        return self.model.roi_head.bbox_head

    @cached_property
    def proposals(self) -> Tensor:
        """The student's sampled proposals: (image, x1, y1, x2, y2) in pixels, (R, 5), detached."""
        if not isinstance(self._student, TwoStageView):
            raise SetupError(
                f'No proposals are known of this {type(self.model).__name__}: a teacher scores '
                'those of a two-stage student, whose own loss has to run first. Use losses on '
                'features or on whole maps.'
            )
        return self._student.proposals

    @cached_property
    def _roi_outputs(self) -> tuple[Tensor, Tensor]:
        # image by image: pooled features are what takes the most memory in a whole step
        per_image = self.proposals[:, 0].long().bincount(minlength=len(self.features[0])).tolist()
        outputs = []
        with self._context():
            for i, proposals in enumerate(self.proposals.split(per_image)):
                own = torch.cat([torch.zeros_like(proposals[:, :1]), proposals[:, 1:]], dim=1)
                features = tuple(level[i : i + 1] for level in self.features)
                results = self.model.roi_head._bbox_forward(features, own)
                outputs.append((results['cls_score'], results['bbox_pred']))
        logits, deltas = zip(*outputs, strict=True)
        return torch.cat(logits), torch.cat(deltas)

    @cached_property
    def roi_cls_logits(self) -> Tensor:
        """Class logits of the proposals, background last, (R, K + 1), in float32."""
        return self._roi_outputs[0].float()

    @cached_property
    def roi_deltas(self) -> Tensor:
        """Encoded boxes of the proposals, (R, K * 4) or class-agnostic (R, 4), in float32."""
        return self._roi_outputs[1].float()

    @cached_property
    def roi_targets(self) -> RoITargets:
        """What the model's own loss of the second stage wanted."""
        raise SetupError(
            f'No targets of the proposals are known of this {type(self.model).__name__}: losses '
            'can read them from a student (a teacher makes none) whose own loss has run.'
        )

    @property
    def roi_sampled(self) -> Tensor:
        """Which proposals the class loss counted; bool, (R,)."""
        return self.roi_targets.label_weights > 0

    @property
    def roi_positives(self) -> Tensor:
        """Which proposals have an object assigned; bool, (R,)."""
        labels = self.roi_targets.labels
        return (labels >= 0) & (labels < self.box_head.num_classes)

    def _notes(self) -> list[Note]:
        def note_pooled(inputs: tuple, results: dict[str, Any]) -> None:
            self.proposals = inputs[1].detach()
            self._roi_outputs = results['cls_score'], results['bbox_pred']

        def note_roi_targets(inputs: tuple, targets: tuple) -> None:
            self.roi_targets = RoITargets(*targets[:3])

        return [
            *super()._notes(),
            (self.model.roi_head, '_bbox_forward', note_pooled),
            (self.box_head, 'get_targets', note_roi_targets),
        ]
