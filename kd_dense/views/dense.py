"""What the views of one-stage detectors and of region proposal networks share: a dense head.

Shapes as in :mod:`kd_dense.views.view`, and K classes.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from mmdet.structures.bbox import BaseBoxes, get_box_tensor
from torch import Tensor

from ..errors import SetupError
from ..hosts import Host
from ..hosts.heads import (
    Assignment,
    assigns_by_atss,
    box_targets_are_boxes,
    decodes_boxes,
    divides_by_positives,
    flatten_levels,
    ignored_anchors,
    ignores_boxes,
    knows_anchors,
    knows_labels,
    knows_towers,
    predicts_bins,
    predicts_deltas,
    read_targets,
    strides_of,
)
from . import info
from .detections import PredictingView
from .readable import readable
from .view import NotAnnotated, Note


class DenseView(PredictingView):
    """What losses may look at in a detector with a dense head, for one batch."""

    parts = ('backbone', 'neck', 'bbox_head', 'rpn_head')

    @property
    def num_classes(self) -> int:
        """Foreground classes K of the dense head."""
        return self.head.num_classes

    @property
    def activation(self) -> str:
        """``'sigmoid'`` or ``'softmax'``."""
        return 'sigmoid' if self.head.use_sigmoid_cls else 'softmax'

    @property
    def num_anchors(self) -> int:
        """Predictions per position A."""
        return getattr(self.head, 'num_base_priors', 1)

    def outputs(self) -> list[Tensor]:
        """Features, class logits and box logits of all levels."""
        return [*self.features, *self.cls_logits, *self.box_logits]

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per position of each level."""
        return strides_of(self.head)

    @readable(agree=('family', 'strides', 'num_classes', 'activation', 'num_anchors', 'anchors'))
    def cls_logits(self) -> list[Tensor]:
        """L maps (N, A * K, H, W); A * (K + 1) with the background last for softmax heads."""
        return self._class_maps()

    @readable(agree=('family', 'strides', 'num_anchors', 'anchors', 'boxes'))
    def box_logits(self) -> list[Tensor]:
        """L maps, (N, A * 4, H, W), or (N, 4 * bins, H, W) in GFL-like heads."""
        return self._box_maps()

    def _class_maps(self) -> list[Tensor]:
        return self._head_outputs[0]

    def _box_maps(self) -> list[Tensor]:
        return self._head_outputs[1]

    @cached_property
    def _head_outputs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Class and box logits of a head whose towers cannot run apart."""
        features = self.features
        with self._context():
            return self.head(features)[:2]

    @cached_property
    def flat_cls_logits(self) -> Tensor:
        """:attr:`cls_logits` of all levels side by side, (N, P, K), in float32."""
        return flatten_levels(self.cls_logits, self.head.cls_out_channels).float()

    @cached_property
    def flat_box_logits(self) -> Tensor:
        """:attr:`box_logits` of all levels side by side, (N, P, 4 * bins), in float32."""
        per_prediction = self.box_logits[0].shape[1] // self.num_anchors
        return flatten_levels(self.box_logits, per_prediction).float()

    @cached_property
    def boxes(self) -> list[Tensor]:
        """Annotated boxes of each image, xyxy in pixels of the network input, N times (G, 4)."""
        if not self.annotated:
            raise NotAnnotated('the annotated boxes')
        boxes = [sample.gt_instances.bboxes for sample in self.batch.samples]
        return [b.tensor if isinstance(b, BaseBoxes) else b for b in boxes]

    @cached_property
    def anchors(self) -> Tensor:
        """The head's anchors at all positions, xyxy in pixels, (P, 4); points (P, 2) of FCOS."""
        device = self.batch.images.device
        levels = self.head.prior_generator.grid_priors(self.level_sizes, device=device)
        return torch.cat([get_box_tensor(level) for level in levels])

    @readable(agree=('family', 'strides', 'num_anchors'), ahead=None)
    def assignment(self) -> Assignment:
        """The label assignment that this model's own loss used."""
        if not self.annotated:
            raise NotAnnotated('the labels that the own loss assigns')
        raise SetupError(
            f'No label assignment is known of this {type(self.head).__name__}. Losses '
            'can read one from a student (a teacher makes none) whose head assigns labels as '
            'GFLHead, ATSSHead, RetinaHead or FCOSHead do; for others use losses on whole maps.'
        )

    @property
    def atss_candidates(self) -> int:
        """Anchors of each level that ATSS considers for an object."""
        return self.head.assigner.topk

    @property
    def box_targets_are_boxes(self) -> bool:
        """Whether the assignment's box targets are boxes, xyxy in pixels, and no deltas."""
        return box_targets_are_boxes(self.head)

    @property
    def positives(self) -> Tensor:
        """Which predictions have an object assigned; bool, (N, P)."""
        labels = self.assignment.labels
        return (labels >= 0) & (labels < self.num_classes)

    @cached_property
    def sampled(self) -> Tensor:
        """Which predictions the model's own class loss counted, without padding; bool, (N, P)."""
        weights = self.assignment.label_weights
        return self.valid if weights is None else self.valid & (weights > 0)

    @property
    def own_divisor(self) -> Tensor:
        """What the model's own class loss is divided by, before ranks share it; a scalar."""
        counted = self.positives & self.valid if divides_by_positives(self.head) else self.sampled
        return counted.sum()

    @cached_property
    def ignored(self) -> Tensor:
        """Which predictions lie under ignored boxes, as the model's own assigner judges it.

        None by mmdet's default of ``ignore_iof_thr=-1``. Bool, (N, P).
        """
        ignored = torch.zeros_like(self.valid)
        for image, sample in enumerate(self.batch.samples if self.annotated else ()):
            instances = getattr(sample, 'ignored_instances', None)
            if instances is not None and len(instances) and ignores_boxes(self.head):
                boxes = get_box_tensor(instances.bboxes)
                ignored[image] = ignored_anchors(self.head, self.anchors, boxes)
        return ignored

    @property
    def eligible(self) -> Tensor:
        """Which predictions a region may hold: neither padding nor ignored; bool, (N, P)."""
        return self.valid & ~self.ignored

    @classmethod
    def _dense_info(cls, head: Host) -> dict[str, Any]:
        """What a dense head tells of itself, as arguments of :class:`HostInfo`."""
        anchors = getattr(head, 'num_base_priors', 1)
        abilities = {
            info.LABELS: knows_labels(head),
            info.ANCHORS: knows_anchors(head),
            info.ATSS: assigns_by_atss(head),
            info.BINS: predicts_bins(head),
            info.DELTAS: predicts_deltas(head),
            info.BOXES: decodes_boxes(head),
            info.TOWERS: knows_towers(head),
        }
        return dict(
            family=cls.family,
            strides=strides_of(head),
            activation='sigmoid' if head.use_sigmoid_cls else 'softmax',
            num_anchors=anchors,
            abilities=frozenset(what for what, can in abilities.items() if can),
        )

    def _notes(self) -> list[Note]:
        head = self.head

        def note_outputs(inputs: tuple, outputs: tuple) -> None:
            self.features = tuple(inputs[0])
            self.cls_logits, self.box_logits = outputs[:2]

        def note_targets(inputs: tuple, targets: tuple) -> None:
            assignment = read_targets(head, targets, len(self.batch.samples))
            if assignment is not None:
                self.assignment = assignment

        return [
            *super()._notes(),
            (head, 'forward', note_outputs),
            (head, 'get_targets', note_targets),
        ]
