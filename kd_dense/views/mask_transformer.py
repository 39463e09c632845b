"""The view of mask transformers, MaskFormer and Mask2Former, as segmentors.

Shapes: N images, Q queries, K classes, masks of h x w positions.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..hosts import Host
from ..hosts.heads import is_mask_transformer
from ..registry import VIEWS
from .readable import Without, readable
from .segmentation import SegmentationView
from .view import NotAnnotated, Note, View, as_levels

LEAST = 1e-12  # of a class at a position: its logarithm is finite, and so is its gradient
IGNORED = 255  # of mmdet's semantic labels


def semantic_logits(classes: Tensor, masks: Tensor) -> Tensor:
    r"""Class logits of pixels: :math:`\log S` of what a mask transformer predicts.

    :math:`S_{c,p} = \sum_q softmax(z_q)_c \, \sigma(m_{q,p})`, without the column of no object [1,
    section 3.4]; the softmax of these logits is S as shares of the classes.

    Sources: [1] Cheng, Schwing, Kirillov, "Per-Pixel Classification is Not All You Need for
    Semantic Segmentation", NeurIPS 2021, arXiv 2107.06278.

    Args:
        classes: z, (N, Q, K + 1), no object last.
        masks: m, (N, Q, h, w).

    Returns:
        (N, K, h, w), in float32.
    """
    shares = classes.float().softmax(dim=-1)[..., :-1]
    found = torch.einsum('nqc,nqhw->nchw', shares, masks.float().sigmoid())
    return found.clamp(min=LEAST).log()


@VIEWS.register_module()
class MaskTransformerView(SegmentationView):
    """What losses may look at in a mask transformer for one batch: the classes of the pixels.

    Queries of two models have nothing in common; what they add up to at a pixel has.
    """

    parts = (*SegmentationView.parts, 'panoptic_head')
    head_features = Without(
        'A mask transformer has no layer that classifies a map: its queries do. Use losses on '
        '`logits` or on feature maps.'
    )

    @staticmethod
    def head_of(model: Host) -> Host:
        """The head."""
        return model.decode_head if hasattr(model, 'decode_head') else model.panoptic_head

    @staticmethod
    def fits(model: Host) -> bool:
        """Whether this view fits a model."""
        return is_mask_transformer(model)

    @staticmethod
    def activation_of(head: Host) -> str:
        """That of the queries' classes."""
        return 'softmax'

    @readable(agree=('family', 'num_classes', 'activation'))
    def seg_logits(self) -> Tensor:
        """:func:`semantic_logits` of the last layer, (N, K, h, w)."""
        return semantic_logits(*self._decoded)

    @cached_property
    def _decoded(self) -> tuple[Tensor, Tensor]:
        """Class and mask logits of the last layer's queries."""
        features = self.features
        canvas = tuple(self.batch.images.shape[-2:])
        told = [
            BaseDataElement(metainfo=dict(batch_input_shape=canvas, img_shape=size))
            for size in self.batch.image_sizes()
        ]
        with self._context():
            return _of_last_layer(self.head(features, told))

    def outputs(self) -> list[Tensor]:
        """Features of all stages and class logits."""
        return [*self.features, self.seg_logits, *self.aux_logits]

    @property
    def ignore_index(self) -> int:
        """What a pixel is labelled with that has no class."""
        return getattr(self.head, 'ignore_index', IGNORED)

    @cached_property
    def labels(self) -> Tensor:
        """Annotated classes, (N, H, W), with the ignore index where a pixel has none."""
        if not self.annotated:
            raise NotAnnotated('the labels of the pixels')
        maps = [sample.gt_sem_seg for sample in self.batch.samples]
        return torch.cat([m.sem_seg if 'sem_seg' in m else m.data for m in maps])

    def task_loss(self) -> Tensor:
        """The head's own losses of all layers, a scalar."""
        return torch.stack([self.own_loss(n) for n in self.own_losses if 'loss' in n]).sum()

    def _notes(self) -> list[Note]:
        def note_features(_: tuple, features: Any) -> None:
            self.features = as_levels(features)

        def note_outputs(_: tuple, outputs: Any) -> None:
            self._decoded = _of_last_layer(outputs)

        return [
            *View._notes(self),
            (self.model, 'extract_feat', note_features),
            (self.head, 'forward', note_outputs),
        ]


def _of_last_layer(outputs: Any) -> tuple[Tensor, Tensor]:
    classes, masks = outputs
    return classes[-1], masks[-1]
