"""What the views of one-stage detectors and of region proposal networks share: a dense head.

Shapes: N images, L levels, H x W positions of a level, A predictions per position, K classes,
P = sum over the levels of H * W * A predictions per image, in mmdet's order (level, row, column,
anchor).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from mmdet.structures.bbox import BaseBoxes, get_box_tensor
from torch import Tensor, nn

from ..errors import SetupError
from .base import Batch, noting
from .heads import Assignment, flatten_levels, read_targets, strides_of


class DenseView:
    """What losses may look at in a detector with a dense head, for one batch.

    Each property is computed when first read, by the model's own methods; for the student
    everything is noted while its own loss runs (:meth:`noting_loss`) and nothing is computed twice.

    Args:
        model: a detector with ``extract_feat`` and a dense head.
        batch: the batch, with images normalised for this model.
        context: entered around each computation (the teacher's no-grad and dtype).
        student: for a teacher's view the student's, whose proposals it may have to score.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
        student: DenseView | None = None,
    ) -> None:
        self.model = model
        self.batch = batch
        self._context = context
        self._student = student

    @staticmethod
    def head_of(model: nn.Module) -> nn.Module:
        """The dense head of a model."""
        raise NotImplementedError

    @property
    def head(self) -> nn.Module:
        """The dense head."""
        return self.head_of(self.model)

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

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per position of each level."""
        return strides_of(self.head)

    @cached_property
    def features(self) -> tuple[Tensor, ...]:
        """What the head reads: L maps (N, C, H, W)."""
        with self._context():
            return tuple(self.model.extract_feat(self.batch.images))

    @property
    def features_of_any_size(self) -> tuple[Tensor, ...]:
        """:attr:`features`, for losses that do not mind other strides than the other model's."""
        return self.features

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
        features = self.features
        with self._context():
            self.cls_logits, self.box_logits = outputs = self.head(features)[:2]
        return outputs

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
    def anchors(self) -> Tensor:
        """The head's anchors at all positions, xyxy in pixels, (P, 4)."""
        device = self.batch.images.device
        levels = self.head.prior_generator.grid_priors(self.level_sizes, device=device)
        return torch.cat([get_box_tensor(level) for level in levels])

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
            f'No label assignment is known of this {type(self.head).__name__}. Losses '
            'can read one from a student (a teacher makes none) whose head assigns labels as '
            'GFLHead, ATSSHead, RetinaHead or FCOSHead do; for others use losses on whole maps.'
        )

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

    @cached_property
    def own_losses(self) -> dict[str, Tensor | list[Tensor]]:
        """What the model's own loss returned."""
        raise RuntimeError('The own loss of this model was not noted: a teacher computes none.')

    def own_loss(self, name: str) -> Tensor:
        """One of the model's own losses as it enters their sum, a scalar; 0 if there is none."""
        value = self.own_losses.get(name, self.features[0].new_zeros(()))
        return value.mean() if isinstance(value, Tensor) else sum(v.mean() for v in value)

    def read_ahead(self, names: Iterable[str]) -> None:
        """Compute of these properties what needs no student to have run.

        Args:
            names: of properties.
        """
        for name in names:
            getattr(self, name)

    @contextmanager
    def noting_loss(self) -> Iterator[None]:
        """Note outputs, assignment and losses while the model's own loss runs inside."""
        with ExitStack() as stack:
            for owner, method, note in self._notes():
                stack.enter_context(noting(owner, method, note))
            yield

    def _notes(self) -> list[tuple[nn.Module, str, Callable[..., None]]]:
        """Which methods to note, as arguments of :func:`noting`."""
        head = self.head

        def note_outputs(inputs: tuple, outputs: tuple) -> None:
            self.features = tuple(inputs[0])
            self.cls_logits, self.box_logits = outputs[:2]

        def note_targets(inputs: tuple, targets: tuple) -> None:
            assignment = read_targets(head, targets, len(self.batch.samples))
            if assignment is not None:
                self.assignment = assignment

        def note_losses(inputs: tuple, losses: dict[str, Any]) -> None:
            self.own_losses = dict(losses)

        return [
            (head, 'forward', note_outputs),
            (head, 'get_targets', note_targets),
            (self.model, 'loss', note_losses),
        ]
