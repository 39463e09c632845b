"""The view of two-stage detectors: mmdet's Faster, Mask and Cascade R-CNN and their kin.

What a dense head has (logits, assignment, positives and so on) is that of the region proposal
network, as in :mod:`kd_dense.views.dense`. Shapes: R proposals of all images, K classes, M
proposals with masks of h x w positions.

A cascade shows classes and boxes of its first stage, which alone is made for the proposals of the
region proposal network, and masks of its last stage, the best that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from mmdet.structures.bbox import bbox2roi
from torch import Tensor

from ..errors import SetupError
from ..hosts import Host
from ..hosts.heads import (
    anchors_of,
    is_cascade,
    is_two_stage,
    of_stage,
    predicts_deltas,
    predicts_masks,
    stages_of,
)
from ..registry import VIEWS
from .dense import DenseView
from .info import MASKS, ROI_DELTAS, HostInfo
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


class Masked(NamedTuple):
    """The proposals whose masks the student's second stage was trained on.

    Attributes:
        proposals: (image, x1, y1, x2, y2) in pixels, (M, 5), detached.
        labels: classes of their objects, 0 to K-1, (M,).
    """

    proposals: Tensor
    labels: Tensor


@VIEWS.register_module()
class TwoStageView(DenseView):
    """What losses may look at in a two-stage detector for one batch.

    A teacher's view scores the student's sampled proposals on the teacher's own features, when
    ``roi_cls_logits`` or ``roi_deltas`` is first read; its own proposals are never made. So it
    draws ``mask_logits`` of those proposals of the student that have masks.
    """

    family = 'two-stage'
    of_own_loss = (
        *('own_losses', 'proposals', '_roi_outputs', 'roi_targets'),
        *('masked', '_mask_outputs'),
    )

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
        rpn, roi_head, box_head = model.rpn_head, model.roi_head, cls.box_head_of(model)
        scores = 'sigmoid' if getattr(box_head.loss_cls, 'use_sigmoid', False) else 'softmax'
        if box_head.custom_cls_channels:
            scores = type(box_head.loss_cls).__name__
        dense = cls._dense_info(rpn)
        able = {ROI_DELTAS: predicts_deltas(box_head), MASKS: predicts_masks(roi_head)}
        dense['abilities'] |= {what for what, can in able.items() if can}
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
            masks='none'
            if not roi_head.with_mask
            else 'one of each'
            if able[MASKS]
            else f'those of a {type(roi_head).__name__}',
        )

    @staticmethod
    def box_head_of(model: Host) -> Host:
        """The second stage's head of a model, of a cascade the first."""
        return stages_of(model.roi_head.bbox_head)[0]

    @staticmethod
    def mask_head_of(model: Host) -> Host:
        """The mask head of a model that has one, of a cascade the last."""
        return stages_of(model.roi_head.mask_head)[-1]

    @property
    def box_head(self) -> Host:
        """The second stage's head, of a cascade the first."""
        return self.box_head_of(self.model)

    def own_loss(self, name: str) -> Tensor:
        """One of the model's own losses as it enters their sum, a scalar; 0 if there is none.

        A cascade's are called by its stages: those of the heads that are shown are found.

        Args:
            name: as Faster R-CNN and Mask R-CNN call it.
        """
        if is_cascade(self.model.roi_head) and name not in self.own_losses:
            stage = self.model.roi_head.num_stages - 1 if name == 'loss_mask' else 0
            name = f's{stage}.{name}'
        return super().own_loss(name)

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
        names = 'cls_score', 'bbox_pred'
        logits, deltas = self._predicted('_bbox_forward', 0, self.proposals, names)
        return logits, deltas

    def _predicted(
        self, method: str, stage: int, proposals: Tensor, outputs: Sequence[str]
    ) -> list[Tensor]:
        """What the second stage predicts of proposals on the features of this view.

        Image by image: pooled features are what takes the most memory in a whole step.

        Args:
            method: of the second stage.
            stage: of a cascade.
            proposals: (image, x1, y1, x2, y2) in pixels, (R, 5), one image after the other.
            outputs: what is wanted of that which the method returns.
        """
        forward = of_stage(self.model.roi_head, method, stage)
        per_image = proposals[:, 0].long().bincount(minlength=len(self.features[0])).tolist()
        found = []
        with self._context():
            for i, chosen in enumerate(proposals.split(per_image)):
                own = torch.cat([torch.zeros_like(chosen[:, :1]), chosen[:, 1:]], dim=1)
                results = forward(tuple(level[i : i + 1] for level in self.features), own)
                found.append([results[name] for name in outputs])
        return [torch.cat(each) for each in zip(*found, strict=True)]

    # the teacher pools proposals from its own features, whatever their strides
    @readable(agree=('family', 'num_classes', 'roi_scores'), ahead='features')
    def roi_cls_logits(self) -> Tensor:
        """Class logits of the proposals, background last, (R, K + 1), in float32."""
        return self._roi_outputs[0].float()

    @readable(agree=('family', 'num_classes', 'roi_boxes'), ahead='features')
    def roi_deltas(self) -> Tensor:
        """Encoded boxes of the proposals, (R, K * 4) or class-agnostic (R, 4), in float32."""
        return self._roi_outputs[1].float()

    @readable(agree=('family',), ahead='features')
    def masked(self) -> Masked:
        """The student's sampled proposals with a mask, and their classes."""
        if not self.annotated:
            raise NotAnnotated('the proposals that have masks')
        if not isinstance(self._student, TwoStageView):
            raise SetupError(
                f'No proposals with masks are known of this {type(self.model).__name__}: a '
                'teacher draws masks of those of a two-stage student with a mask head, whose own '
                'loss has to run first. Use losses on features or on whole maps.'
            )
        return self._student.masked

    @cached_property
    def _mask_outputs(self) -> Tensor:
        (masks,) = self._predicted('_mask_forward', -1, self.masked.proposals, ('mask_preds',))
        return masks

    @readable(agree=('family', 'num_classes', 'masks'), ahead='features')
    def mask_logits(self) -> Tensor:
        """Mask logits of the proposals with a mask, each of its own class, (M, h, w), in float32.

        A head that draws one mask whatever the class draws that.
        """
        every = self._mask_outputs
        labels = self.masked.labels
        if self.mask_head_of(self.model).class_agnostic:
            labels = torch.zeros_like(labels)
        return every[torch.arange(len(labels), device=labels.device), labels].float()

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
        roi_head = self.model.roi_head
        stages = is_cascade(roi_head)

        def note_pooled(inputs: tuple, results: dict[str, Any]) -> None:
            if not stages or inputs[0] == 0:
                self.proposals = inputs[-1].detach()
                self._roi_outputs = results['cls_score'], results['bbox_pred']

        def note_roi_targets(inputs: tuple, targets: tuple) -> None:
            self.roi_targets = RoITargets(*targets[:3])

        def note_masks(inputs: tuple, results: dict[str, Any]) -> None:
            sampled = inputs[2 if stages else 1]  # of a cascade the last stage comes last
            proposals = bbox2roi([each.pos_priors for each in sampled]).detach()
            self.masked = Masked(proposals, torch.cat([each.pos_gt_labels for each in sampled]))
            self._mask_outputs = results['mask_preds']

        notes: list[Note] = [
            *super()._notes(),
            (roi_head, '_bbox_forward', note_pooled),
            (self.box_head, 'get_targets', note_roi_targets),
        ]
        if predicts_masks(roi_head):
            notes.append((roi_head, 'mask_loss', note_masks))
        return notes
