"""The view of one-stage detectors: mmdet's ``SingleStageDetector`` and its kin.

Shapes: N images, L levels, H x W positions of a level, A predictions per position, K classes,
P = sum over the levels of H * W * A predictions per image, in mmdet's order (level, row, column,
anchor).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import NamedTuple

import torch
from mmdet.models.dense_heads import AnchorHead, ATSSHead, FCOSHead, GFLHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures.bbox import BaseBoxes
from torch import Tensor, nn

from ..errors import SetupError
from .base import Batch, HostInfo, noting


class Assignment(NamedTuple):
    """The student's own label assignment, all levels side by side.

    Attributes:
        anchors: xyxy in pixels, (N, P, 4); None for heads that tell none. All 0 where the
            assigner was not shown them, in the padding.
        labels: (N, P), 0 to K-1 for positives, K for background.
        box_targets: as the head defines them, (N, P, 4); GFL-like heads: xyxy in pixels.
    """

    anchors: Tensor | None
    labels: Tensor
    box_targets: Tensor


def flatten_levels(maps: tuple[Tensor, ...] | list[Tensor], channels: int) -> Tensor:
    """Put the maps of all levels side by side, one row per prediction.

    Args:
        maps: L maps of shape (N, A * channels, H, W).
        channels: values per prediction.

    Returns:
        (N, P, channels).
    """
    rows = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps]
    return torch.cat(rows, dim=1)


class OneStageView:
    """What losses may look at in a one-stage detector for one batch.

    Each property is computed when first read, by the model's own methods; for the student
    everything is noted while its own loss runs (:meth:`noting_loss`) and nothing is computed twice.

    Args:
        model: a detector with ``extract_feat`` and ``bbox_head``.
        batch: the batch, with images normalised for this model.
        context: entered around each computation (the teacher's no-grad and dtype).
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.model = model
        self.batch = batch
        self._context = context

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
            family='one-stage',
            strides=_strides(head),
            num_classes=head.num_classes,
            activation='sigmoid' if head.use_sigmoid_cls else 'softmax',
            num_anchors=getattr(head, 'num_base_priors', 1),
            boxes=f'distribution over {bins + 1} bins'
            if isinstance(head, GFLHead)
            else f'4 values by {type(getattr(head, "bbox_coder", head)).__name__}',
            head=type(head).__name__,
        )

    @property
    def num_classes(self) -> int:
        """Foreground classes K."""
        return self.model.bbox_head.num_classes

    @property
    def activation(self) -> str:
        """``'sigmoid'`` or ``'softmax'``."""
        return 'sigmoid' if self.model.bbox_head.use_sigmoid_cls else 'softmax'

    @property
    def num_anchors(self) -> int:
        """Predictions per position A."""
        return getattr(self.model.bbox_head, 'num_base_priors', 1)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per position of each level."""
        return _strides(self.model.bbox_head)

    @cached_property
    def features(self) -> tuple[Tensor, ...]:
        """What the head reads: L maps (N, C, H, W)."""
        with self._context():
            return tuple(self.model.extract_feat(self.batch.images))

    @cached_property
    def cls_logits(self) -> list[Tensor]:
        """L maps (N, A * K, H, W); A * (K + 1) with the background last for softmax heads."""
        return self._predict()[0]

    @cached_property
    def box_logits(self) -> list[Tensor]:
        """L maps, (N, A * 4, H, W), or (N, 4 * bins, H, W) in GFL-like heads."""
        return self._predict(boxes=True)[1]

    def _predict(self, boxes: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Class and box logits; only what is asked for where the head's towers can run apart."""
        head, features = self.model.bbox_head, self.features
        with self._context():
            if type(head).forward_single is GFLHead.forward_single:
                return (
                    ([], _box_tower(head, features)) if boxes else (_cls_tower(head, features), [])
                )
            self.cls_logits, self.box_logits = outputs = head(features)[:2]
            return outputs

    @cached_property
    def flat_cls_logits(self) -> Tensor:
        """:attr:`cls_logits` of all levels side by side, (N, P, K), in float32."""
        return flatten_levels(self.cls_logits, self.model.bbox_head.cls_out_channels).float()

    @cached_property
    def flat_box_logits(self) -> Tensor:
        """:attr:`box_logits` of all levels side by side, (N, P, 4 * bins), in float32."""
        per_prediction = self.box_logits[0].shape[1] // self.num_anchors
        return flatten_levels(self.box_logits, per_prediction).float()

    @cached_property
    def level_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of each level's map."""
        return [(f.shape[-2], f.shape[-1]) for f in self.features]

    @cached_property
    def level_index(self) -> Tensor:
        """Level of each prediction, (P,)."""
        counts = [h * w * self.num_anchors for h, w in self.level_sizes]
        device = self.batch.images.device
        return torch.repeat_interleave(torch.tensor(counts, device=device))

    def positions(self, mask: Tensor) -> list[Tensor]:
        """Bring a mask over predictions to the positions of each level's map.

        Args:
            mask: bool, (N, P).

        Returns:
            L masks (N, H, W), true where any prediction of the position is chosen.
        """
        merged = mask.reshape(len(mask), -1, self.num_anchors).any(dim=-1)
        parts = merged.split([h * w for h, w in self.level_sizes], dim=1)
        return [p.reshape(-1, *size) for p, size in zip(parts, self.level_sizes, strict=True)]

    @cached_property
    def boxes(self) -> list[Tensor]:
        """Annotated boxes of each image, xyxy in pixels of the network input, N times (G, 4)."""
        boxes = [sample.gt_instances.bboxes for sample in self.batch.samples]
        return [b.tensor if isinstance(b, BaseBoxes) else b for b in boxes]

    @cached_property
    def decoded_boxes(self) -> Tensor:
        """Predicted boxes of a GFL-like head, xyxy in pixels, (N, P, 4)."""
        head = self.model.bbox_head
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

    @cached_property
    def valid(self) -> Tensor:
        """Which predictions lie inside their image, not in its padding; bool, (N, P)."""
        levels = zip(self.level_sizes, self.strides, strict=True)
        inside = [self.batch.inside(size, stride).flatten(1) for size, stride in levels]
        return torch.cat([m.repeat_interleave(self.num_anchors, dim=1) for m in inside], dim=1)

    @cached_property
    def assignment(self) -> Assignment:
        """The label assignment that this model's own loss used."""
        raise SetupError(
            f'No label assignment is known of this {type(self.model.bbox_head).__name__}. Losses '
            'can read one from a student (a teacher makes none) whose head assigns labels as '
            'GFLHead, ATSSHead, RetinaHead or FCOSHead do; for others use losses on whole maps.'
        )

    @property
    def positives(self) -> Tensor:
        """Which predictions have an object assigned; bool, (N, P)."""
        labels = self.assignment.labels
        return (labels >= 0) & (labels < self.num_classes)

    @contextmanager
    def noting_loss(self) -> Iterator[None]:
        """Note features, logits and assignment while the model's own loss runs inside."""
        head = self.model.bbox_head

        def note_outputs(inputs: tuple, outputs: tuple) -> None:
            self.features = tuple(inputs[0])
            self.cls_logits, self.box_logits = outputs[:2]

        def note_targets(inputs: tuple, targets: tuple) -> None:
            assignment = _read_targets(head, targets, len(self.batch.samples))
            if assignment is not None:
                self.assignment = assignment

        with ExitStack() as stack:
            stack.enter_context(noting(head, 'forward', note_outputs))
            stack.enter_context(noting(head, 'get_targets', note_targets))
            yield


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


def _strides(head: nn.Module) -> tuple[int, ...]:
    strides = getattr(head, 'prior_generator', head).strides
    return tuple(int(s[0] if isinstance(s, tuple | list) else s) for s in strides)


def _read_targets(head: nn.Module, targets: tuple, num_images: int) -> Assignment | None:
    """Bring what mmdet's ``get_targets`` methods return to one form; None for one we don't know."""
    method = type(head).get_targets
    if method is FCOSHead.get_targets:
        labels, boxes = targets[:2]
        return Assignment(
            None,
            torch.cat([level.reshape(num_images, -1) for level in labels], dim=1),
            torch.cat([level.reshape(num_images, -1, 4) for level in boxes], dim=1),
        )
    if method in (GFLHead.get_targets, ATSSHead.get_targets):
        anchors, labels, _, boxes = targets[:4]
        return Assignment(torch.cat(anchors, 1), torch.cat(labels, 1), torch.cat(boxes, 1))
    if method is AnchorHead.get_targets:
        labels, _, boxes = targets[:3]
        return Assignment(None, torch.cat(labels, 1), torch.cat(boxes, 1))
    return None
