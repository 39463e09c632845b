"""The view of segmentors: mmseg's ``EncoderDecoder``, and ``CascadeEncoderDecoder`` such as OCRNet.

The decode head is the one head, or the last of a cascade, which tells what is predicted.

mmseg is an optional part of the installation: nothing here imports it.

Shapes: N images of H x W pixels, K classes, maps of h x w positions.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host
from ..hosts.heads import is_segmentor, stages_of
from ..registry import VIEWS
from .info import HostInfo
from .readable import readable
from .view import NotAnnotated, Note, View, as_levels, probe
from .watch import watch_calls

TASK = 'decode'  # how mmseg's losses of the decode head are named


@VIEWS.register_module()
class SegmentationView(View):
    """What losses may look at in a segmentor for one batch."""

    parts: ClassVar[tuple[str, ...]] = ('backbone', 'neck', 'decode_head', 'auxiliary_head')
    family = 'segmentation'

    @staticmethod
    def head_of(model: Host) -> Host:
        """The decode head, the last of a cascade."""
        return stages_of(model.decode_head)[-1]

    @staticmethod
    def fits(model: Host) -> bool:
        """Whether this view fits a model."""
        return is_segmentor(model)

    @classmethod
    def describe(cls, model: Host) -> HostInfo:
        """Read off a model what two models may have to agree in."""
        head = cls.head_of(model)
        return HostInfo(
            family=cls.family,
            strides=probe(model, cls).strides,
            num_classes=head.num_classes,
            activation=cls.activation_of(head),
            boxes='none',
            head=type(head).__name__,
        )

    @staticmethod
    def activation_of(head: Host) -> str:
        """How class logits of a head become probabilities: ``'softmax'`` or ``'sigmoid'``."""
        return 'softmax' if head.out_channels > 1 else 'sigmoid'

    @property
    def auxiliary_heads(self) -> list[nn.Module]:
        """The auxiliary heads, none in many models."""
        heads = getattr(self.model, 'auxiliary_head', None)
        return list(heads) if isinstance(heads, nn.ModuleList) else [heads] if heads else []

    # maps of other sizes than the student's are brought to that
    @readable(agree=('family', 'num_classes', 'activation'))
    def seg_logits(self) -> Tensor:
        """Class logits of the decode head before any resizing, (N, K, h, w).

        Raises:
            SetupError: the head returns something else than one map.
        """
        return _one_map(self.head, self._decoded)

    @readable(agree=('family',))
    def head_features(self) -> Tensor:
        """What the decode head's classifier reads, (N, C, h, w).

        Raises:
            SetupError: the head classifies by other means than mmseg's ``cls_seg``.
        """
        _ = self._decoded
        if self._classifier_input is None:
            raise SetupError(
                f'What the classifier of this {type(self.head).__name__} reads is not known: it '
                "does not call mmseg's `cls_seg`. Use losses on `logits` or on feature maps."
            )
        return self._classifier_input

    @readable(agree=('family', 'num_classes', 'activation'))
    def aux_logits(self) -> tuple[Tensor, ...]:
        """Class logits of the auxiliary heads, each (N, K, h, w)."""
        features = self.features
        with self._context():
            return tuple(_one_map(head, head(features)) for head in self.auxiliary_heads)

    _classifier_input: Tensor | None = None

    @cached_property
    def _decoded(self) -> Any:
        """What the decode head returns; noted on the way: what its classifier reads."""
        features = self.features
        first, *later = stages_of(self.model.decode_head)
        with self._context(), watch_calls(self.head, 'cls_seg', self._note_classifier):
            found = first(features)
            for head in later:
                found = head(features, found)
            return found

    def _note_classifier(self, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        self._classifier_input = inputs[0]

    def outputs(self) -> list[Tensor]:
        """Features of all stages and logits of all heads."""
        decoded = as_levels(self._decoded)  # some heads return more than a map
        return [*self.features, *decoded, *self.aux_logits]

    def stage(self, name: int | str) -> Tensor:
        """The map of one stage, (N, C, h, w).

        Args:
            name: index into :attr:`features`; ``'head'``, what the classifier reads; or
                ``'logits'``.

        Raises:
            SetupError: there is no such stage.
        """
        if name == 'logits':
            return self.seg_logits
        return self.head_features if name == 'head' else super().stage(name)

    @property
    def ignore_index(self) -> int:
        """What a pixel is labelled with that has no class."""
        return self.head.ignore_index

    @cached_property
    def labels(self) -> Tensor:
        """Annotated classes, (N, H, W), with the ignore index where a pixel has none."""
        if not self.annotated:
            raise NotAnnotated('the labels of the pixels')
        return torch.cat([s.gt_sem_seg.data for s in self.batch.samples])

    @cached_property
    def valid_pixels(self) -> Tensor:
        """Which pixels are neither ignored nor padding; bool, (N, H, W).

        Where annotations are not read, none is ignored.
        """
        if not self.annotated:
            height, width = self.batch.images.shape[-2:]
            return self.batch.inside((height, width), stride=1)
        size = (self.labels.shape[-2], self.labels.shape[-1])
        return (self.labels != self.ignore_index) & self.batch.inside(size, stride=1)

    def valid_at(self, size: tuple[int, int]) -> Tensor:
        """Which positions of a map have a valid pixel at their centre; bool, (N, h, w).

        Args:
            size: (h, w) of the map.
        """
        pixels = self.valid_pixels[:, None].float()
        return F.interpolate(pixels, tuple(size), mode='nearest-exact')[:, 0] > 0

    def labels_at(self, size: tuple[int, int]) -> Tensor:
        """The label of the pixel at the centre of each position of a map, (N, h, w).

        Args:
            size: (h, w) of the map.
        """
        labels = self.labels[:, None].float()
        return F.interpolate(labels, tuple(size), mode='nearest-exact')[:, 0].long()

    def level_masks(self) -> list[Tensor]:
        """Which positions of each stage's map count: L masks (N, h, w), without ignored pixels."""
        return [self.valid_at(size) for size in self.level_sizes]

    def task_loss(self) -> Tensor:
        """The decode head's own loss, a scalar."""
        heads = self.model.decode_head
        stage = f'_{len(heads) - 1}' if isinstance(heads, nn.ModuleList) else ''
        names = [n for n in self.own_losses if n.startswith(f'{TASK}{stage}.') and 'loss' in n]
        return torch.stack([self.own_loss(name) for name in names]).sum()

    def _notes(self) -> list[Note]:
        def note_features(_: tuple, features: Any) -> None:
            self.features = as_levels(features)

        def note_logits(inputs: tuple, _: Any) -> None:
            self._decoded = inputs[0]

        notes = [
            *super()._notes(),
            (self.model, 'extract_feat', note_features),
            (self.head, 'cls_seg', self._note_classifier),
            (self.head, 'loss_by_feat', note_logits),
        ]
        auxiliary: dict[int, Tensor] = {}
        for index, head in enumerate(self.auxiliary_heads):

            def note_auxiliary(inputs: tuple, _: Any, index: int = index) -> None:
                auxiliary[index] = inputs[0]
                self.aux_logits = tuple(auxiliary[i] for i in sorted(auxiliary))

            notes.append((head, 'loss_by_feat', note_auxiliary))
        return notes


def _one_map(head: Host, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise SetupError(
            f'{type(head).__name__} returns {type(output).__name__} instead of one map of logits; '
            'losses on logits cannot read it. Use losses on `features`.'
        )
    return output
