"""The view of segmentors: mmseg's ``EncoderDecoder``.

mmseg is an optional part of the installation: nothing here imports it.

Shapes: N images of H x W pixels, K classes, maps of h x w positions.
"""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SetupError
from .base import HostInfo, noting
from .view import Note, View, probe

TASK = 'decode.'  # how mmseg's losses of the decode head are named


class SegmentationView(View):
    """What losses may look at in a segmentor for one batch."""

    parts = ('backbone', 'neck', 'decode_head', 'auxiliary_head')
    family = 'segmentation'

    @staticmethod
    def head_of(model: nn.Module) -> nn.Module:
        """The decode head."""
        return model.decode_head

    @staticmethod
    def describes(model: nn.Module) -> bool:
        """Whether this view fits the model."""
        mmseg = sys.modules.get('mmseg.models')  # a model of mmseg has imported it
        if mmseg is None or not isinstance(model, mmseg.EncoderDecoder):
            return False
        # of BaseDecodeHead; neither a cascade of heads nor a mask transformer has them
        return all(hasattr(model.decode_head, name) for name in ('cls_seg', 'loss_by_feat'))

    @staticmethod
    def describe(model: nn.Module) -> HostInfo:
        """What of the model has to agree between teacher and student."""
        head = model.decode_head
        return HostInfo(
            family=SegmentationView.family,
            strides=probe(model, SegmentationView).strides,
            num_classes=head.num_classes,
            activation='softmax' if head.out_channels > 1 else 'sigmoid',
            num_anchors=1,
            boxes='none',
            head=type(head).__name__,
        )

    @property
    def head(self) -> nn.Module:
        """The decode head."""
        return self.model.decode_head

    @property
    def auxiliary_heads(self) -> list[nn.Module]:
        """The auxiliary heads, none in many models."""
        heads = getattr(self.model, 'auxiliary_head', None)
        return list(heads) if isinstance(heads, nn.ModuleList) else [heads] if heads else []

    @cached_property
    def seg_logits(self) -> Tensor:
        """Class logits of the decode head before any resizing, (N, K, h, w)."""
        self._decode()
        return self.seg_logits

    @cached_property
    def head_features(self) -> Tensor:
        """What the decode head's classifier reads, (N, C, h, w)."""
        self._decode()
        return self.head_features

    @cached_property
    def aux_logits(self) -> tuple[Tensor, ...]:
        """Class logits of the auxiliary heads, each (N, K, h, w)."""
        features = self.features
        with self._context():
            return tuple(_one_map(head, head(features)) for head in self.auxiliary_heads)

    def _decode(self) -> None:
        features = self.features
        with self._context(), noting(self.head, 'cls_seg', self._note_classifier):
            self.seg_logits = _one_map(self.head, self.head(features))

    def _note_classifier(self, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        self.head_features = inputs[0]

    def outputs(self) -> list[Tensor]:
        """Features of all stages and logits of all heads."""
        return [*self.features, self.seg_logits, *self.aux_logits]

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

    @cached_property
    def labels(self) -> Tensor:
        """Annotated classes, (N, H, W), with the ignore index where a pixel has none."""
        return torch.cat([s.gt_sem_seg.data for s in self.batch.samples])

    @cached_property
    def valid_pixels(self) -> Tensor:
        """Which pixels are neither ignored nor padding; bool, (N, H, W)."""
        size = tuple(self.labels.shape[-2:])
        return (self.labels != self.head.ignore_index) & self.batch.inside(size, stride=1)

    def valid_at(self, size: tuple[int, int]) -> Tensor:
        """Which positions of a map have a valid pixel at their centre; bool, (N, h, w).

        Args:
            size: (h, w) of the map.
        """
        pixels = self.valid_pixels[:, None].float()
        return F.interpolate(pixels, tuple(size), mode='nearest-exact')[:, 0] > 0

    def level_masks(self) -> list[Tensor]:
        """Which positions of each stage's map count: L masks (N, h, w), without ignored pixels."""
        return [self.valid_at(size) for size in self.level_sizes]

    def task_loss(self) -> Tensor:
        """The decode head's own loss, a scalar."""
        names = [n for n in self.own_losses if n.startswith(TASK) and 'loss' in n]
        return torch.stack([self.own_loss(name) for name in names]).sum()

    def _notes(self) -> list[Note]:
        def note_features(_: tuple, features: Any) -> None:
            self.features = tuple(features)

        def note_logits(inputs: tuple, _: Any) -> None:
            self.seg_logits = _one_map(self.head, inputs[0])

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


def _one_map(head: nn.Module, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise SetupError(
            f'{type(head).__name__} returns {type(output).__name__} instead of one map of logits; '
            'losses on logits cannot read it. Use losses on `features`.'
        )
    return output
