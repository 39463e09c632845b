"""The view of two-stage detectors: mmdet's Faster R-CNN, Mask R-CNN and their kin.

What a dense head has (logits, assignment, positives and so on) is that of the region proposal
network, as in :mod:`kd_dense.views.dense`. Shapes: R proposals of all images, K classes.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import SetupError
from ..hosts import Host
from ..hosts.heads import anchors_of, is_two_stage, predicts_deltas
from ..registry import VIEWS
from .dense import DenseView
from .info import ROI_DELTAS, HostInfo
from .readable import readable
from .view import NotAnnotated, Note


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


@VIEWS.register_module()
class TwoStageView(DenseView):
    """What losses may look at in a two-stage detector for one batch.

    A teacher's view scores the student's sampled proposals on the teacher's own features, when
    ``roi_cls_logits`` or ``roi_deltas`` is first read; its own proposals are never made.
    """

    family = 'two-stage'
    of_own_loss = ('own_losses', 'proposals', '_roi_outputs', 'roi_targets')

    @staticmethod
    def head_of(model: Host) -> Host:
        """The region proposal network's head."""
        return model.rpn_head

    @staticmethod
    def fits(model: Host) -> bool:
        """Whether this view fits a model."""
        return is_two_stage(model)

    @classmethod
    def describe(cls, model: Host) -> HostInfo:
        """Read off a model what two models may have to agree in."""
        rpn, box_head = model.rpn_head, model.roi_head.bbox_head
        scores = 'sigmoid' if getattr(box_head.loss_cls, 'use_sigmoid', False) else 'softmax'
        if box_head.custom_cls_channels:
            scores = type(box_head.loss_cls).__name__
        dense = cls._dense_info(rpn)
        if predicts_deltas(box_head):
            dense['abilities'] = frozenset([*dense['abilities'], ROI_DELTAS])
        return HostInfo(
            **dense,
            num_classes=box_head.num_classes,
            boxes=f'4 values by {type(rpn.bbox_coder).__name__}',
            head=type(box_head).__name__,
            anchors=anchors_of(rpn),
            roi_scores=scores,
            roi_boxes=f'4 values by {type(box_head.bbox_coder).__name__}'
            if box_head.with_reg
            else 'none',
        )

    @staticmethod
    def box_head_of(model: Host) -> Host:
        """The second stage's head of a model."""
        return model.roi_head.bbox_head

    @property
    def box_head(self) -> Host:
        """The second stage's head."""
        return self.box_head_of(self.model)

    @readable(agree=('family',), ahead='features')
    def proposals(self) -> Tensor:
        """The student's sampled proposals: (image, x1, y1, x2, y2) in pixels, (R, 5), detached."""
        if not self.annotated:
            raise NotAnnotated('the proposals that the own loss samples')
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

    # the teacher pools proposals from its own features, whatever their strides
    @readable(agree=('family', 'num_classes', 'roi_scores'), ahead='features')
    def roi_cls_logits(self) -> Tensor:
        """Class logits of the proposals, background last, (R, K + 1), in float32."""
        return self._roi_outputs[0].float()

    @readable(agree=('family', 'num_classes', 'roi_boxes'), ahead='features')
    def roi_deltas(self) -> Tensor:
        """Encoded boxes of the proposals, (R, K * 4) or class-agnostic (R, 4), in float32."""
        return self._roi_outputs[1].float()

    @cached_property
    def roi_targets(self) -> RoITargets:
        """What the model's own loss of the second stage wanted."""
        if not self.annotated:
            raise NotAnnotated('the labels of the proposals')
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
