"""The view of detection transformers: mmdet's DETR and those built on it.

Shapes: N images, D decoder layers, Q queries (without those that only training has), K classes.
Boxes are (cx, cy, w, h) as shares of the image without its padding, as the hosts predict them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..errors import SetupError
from ..hosts import Host
from ..hosts.detr import (
    MASK,
    added_queries,
    as_type,
    asked_alone,
    class_activation,
    class_scores,
    is_detr,
    knows_costs,
    queries_of,
    query_form,
    without,
)
from ..registry import VIEWS
from . import info
from .detections import Detections
from .features import FeatureView
from .info import HostInfo
from .readable import readable
from .view import ON_FEATURES, Note, in_half_precision, probe


@dataclass(frozen=True, kw_only=True)
class DetrInfo(HostInfo):
    """What two detection transformers may have to agree in besides.

    Args:
        queries: what the decoder is asked by, in words.
    """

    queries: str = info.compared_field('what the decoder is asked by')


@VIEWS.register_module()
class DetrView(FeatureView):
    """What losses may look at in a detection transformer for one batch."""

    family = 'detr'
    served_by = (
        'SharedQueries teaches by a detection transformer whose decoder is asked the same, '
        'QueryMatching by any detector of the same classes; losses on features ask the least of a '
        f'pair: {ON_FEATURES}'
    )

    @staticmethod
    def fits(model: Host) -> bool:
        """Whether this view fits a model."""
        return is_detr(model)

    @staticmethod
    def head_of(model: Host) -> Host:
        """The box head."""
        return model.bbox_head

    @classmethod
    def describe(cls, model: Host) -> HostInfo:
        """Read off a model what two models may have to agree in."""
        head = model.bbox_head
        return DetrInfo(
            family=cls.family,
            strides=probe(model, cls).strides,
            num_classes=head.num_classes,
            activation=class_activation(head),
            boxes='shares of the image',
            head=type(head).__name__,
            abilities=frozenset([info.MATCHES] if knows_costs(head) else []),
            queries=query_form(model),
        )

    @property
    def activation(self) -> str:
        """``'sigmoid'`` or ``'softmax'``."""
        return class_activation(self.head)

    # -- the encoder -------------------------------------------------------------------------------

    @readable(agree=('strides',))
    def memory(self) -> tuple[Tensor, ...]:
        """What the encoder returns, as maps of the levels that it reads: L maps (N, C, H, W)."""
        _, encoded = self._encoded
        rows = encoded['memory'].mT  # (N, C, positions)
        levels = rows.split([h * w for h, w in self.level_sizes], dim=-1)
        pairs = zip(levels, self.level_sizes, strict=True)
        return tuple(level.unflatten(-1, size) for level, size in pairs)

    @cached_property
    def _encoded(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the decoder is given besides its queries, and what the encoder returns."""
        if in_half_precision(self.model):
            raise SetupError(
                f'The transformer of a {type(self.model).__name__} runs in single precision only: '
                "mmdet computes its positions so. Leave the teacher's `dtype` out."
            )
        features = self.features
        with self._context():
            inputs, given = self.model.pre_transformer(features, self._samples)
            return given, self.model.forward_encoder(**inputs)

    @property
    def _samples(self) -> Sequence[BaseDataElement]:
        """N samples that tell the sizes of their images."""
        if self.batch.samples:
            return self.batch.samples
        size = tuple(self.batch.images.shape[-2:])
        told = dict(img_shape=size, batch_input_shape=size)
        return [DetDataSample(metainfo=told) for _ in self.batch.images]

    # -- the decoder -------------------------------------------------------------------------------

    @readable(agree=('family', 'queries'))
    def queries(self) -> dict[str, Tensor]:
        """What the decoder is asked by, as it enters the first layer: (N, Q, ...) by name."""
        return queries_of(self._decoder_inputs, self._added)

    @readable(agree=('family', 'num_classes', 'activation'))
    def query_logits(self) -> Tensor:
        """Class logits of all decoder layers, float32, (D, N, Q, K); K + 1 for softmax heads."""
        return self._answered[0].float()

    @readable(agree=('family',))
    def query_boxes(self) -> Tensor:
        """Boxes of all decoder layers, float32, (D, N, Q, 4)."""
        return self._answered[1].float()

    @readable(agree=('num_classes',))
    def detections(self) -> list[Detections]:
        """The scores and boxes of the last layer's queries, N times."""
        logits, boxes = self.query_logits[-1], self.query_boxes[-1]
        scores = class_scores(logits, self.activation)
        return [Detections(*each) for each in zip(scores, boxes, strict=True)]

    def answers(self, queries: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What the decoder says to queries, its own or another's, of this batch.

        Args:
            queries: as :attr:`queries`, of any number.

        Returns:
            class logits (D, N, Q, K) and boxes (D, N, Q, 4), in the number type of the weights,
            under autocast too.
        """
        dtype = next(self.model.decoder.parameters()).dtype
        inputs = as_type({**self._decoder_inputs, **queries}, dtype)
        if MASK in inputs:
            inputs[MASK] = None
        device = self.batch.images.device
        with (
            self._context(),
            torch.autocast(device.type, enabled=False),
            asked_alone(self.model, inputs['query'].shape[1]),
        ):
            return self.model.bbox_head(**self.model.forward_decoder(**inputs))[:2]

    @cached_property
    def _answered(self) -> tuple[Tensor, Tensor]:
        return self.answers(self.queries)

    @cached_property
    def _decoder_inputs(self) -> dict[str, Any]:
        """The keyword arguments of the decoder."""
        given, encoded = self._encoded
        with self._context(), asked_alone(self.model):
            asked, _ = self.model.pre_decoder(**encoded)
        return {**given, **asked}

    _added: tuple[int, int] = (0, 0)  # queries that only training has, before and behind the others

    # -- what the own loss computes ----------------------------------------------------------------

    def _notes(self) -> list[Note]:
        found: dict[str, Any] = {}

        def note_encoder_inputs(_: tuple, outputs: tuple) -> None:
            found['given'] = dict(outputs[1])

        def note_memory(_: tuple, encoded: dict[str, Any]) -> None:
            self._encoded = found['given'], encoded

        def note_queries(_: tuple, outputs: tuple) -> None:
            self._decoder_inputs = {**found['given'], **outputs[0]}
            self._added = added_queries(outputs[1])

        def note_answers(_: tuple, outputs: tuple) -> None:
            logits, boxes = (without(each, self._added, dim=2) for each in outputs[:2])
            self._answered = logits, boxes

        return [
            *super()._notes(),
            (self.model, 'pre_transformer', note_encoder_inputs),
            (self.model, 'forward_encoder', note_memory),
            (self.model, 'pre_decoder', note_queries),
            (self.model.bbox_head, 'forward', note_answers),
        ]
