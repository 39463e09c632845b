"""What a teacher knows of images that are larger than the student's, brought to the student's grid.

Shapes: N images, r the scale, H x W pixels of the student's images and H' x W' of the teacher's;
stride s of a level is in pixels of the image that the model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from math import ceil
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host
from ..hosts.heads import (
    BOX,
    boxes_are_in_pixels,
    decodes_boxes,
    flatten_levels,
    is_partner,
    run_tower,
    strides_of,
)
from ..losses.maps import size_of
from ..views import (
    Batch,
    DenseView,
    Detections,
    DetrView,
    FeatureView,
    MaskTransformerView,
    OneStageView,
    SegmentationView,
    TwoStageView,
    View,
    probe,
    readable,
    view_class,
)
from ..views.view import as_levels
from .renormalize import preprocessing_of

BOXES = ('box_logits', 'decoded_boxes')
DENSE = ('cls_logits', *BOXES)
ROI = {'proposals', 'roi_cls_logits', 'roi_deltas', 'masked', 'mask_logits'}
_strides: WeakKeyDictionary[nn.Module, dict[str, tuple[float, ...]]] = WeakKeyDictionary()


def enlarged(batch: Batch, scale: float, model: Host) -> Batch:
    """A batch with its images resized, as if the pipeline had done so before they were padded.

    Each image is interpolated linearly apart from its padding, and padded again at the right and
    below. Samples tell the new sizes and the scale factor; annotations are not among them.

    Args:
        batch: images (N, 3, H, W), normalised for the model.
        scale: r.
        model: that will see them: its preprocessor pads with a value, and to multiples of a number.
    """
    preprocessing = preprocessing_of(model.data_preprocessor)
    assert preprocessing is not None, 'a teacher with another preprocessor is not loaded'
    divisor = preprocessing.pad_divisor
    height, width = (
        ceil(round(size * scale) / divisor) * divisor for size in batch.images.shape[-2:]
    )
    images = batch.images.new_full((len(batch.images), 3, height, width), preprocessing.pad_value)
    sizes = [(round(h * scale), round(w * scale)) for h, w in batch.image_sizes()]
    for image, old, (h, w), (new_h, new_w) in zip(
        images, batch.images, batch.image_sizes(), sizes, strict=True
    ):
        content = old[None, :, :h, :w].float()
        resized = F.interpolate(content, (new_h, new_w), mode='bilinear', align_corners=False)
        image[:, :new_h, :new_w] = resized[0]
    samples = []
    for sample, (h, w) in zip(batch.samples, sizes, strict=False):
        factors = sample.metainfo.get('scale_factor', (1.0, 1.0))
        told = dict(
            img_shape=(h, w),
            pad_shape=(height, width),
            batch_input_shape=(height, width),
            scale_factor=tuple(float(factor) * scale for factor in factors),
            padding_size=[0, width - w, 0, height - h],
        )
        samples.append(type(sample)(metainfo={**sample.metainfo, **told}))
    return Batch(images, samples)


class Larger(View):
    """A teacher's view of images of another size, as a student of the batch's own size sees it.

    Maps are interpolated to the size that they have of the student's images.

    Args:
        model: the host.
        batch: the student's, with images normalised for this model.
        context: entered around each computation.
        student: the student's view.
        larger: the batch that the model sees instead.
        scale: r.
    """

    def __init__(
        self,
        model: Host,
        batch: Batch,
        context: Callable[[], AbstractContextManager[object]],
        student: View | None,
        larger: Batch,
        scale: float,
    ) -> None:
        super().__init__(model, batch, context, student)
        self.scale = scale
        self.larger = view_class(model)(model, larger, context, student)

    @readable(agree=('family', 'strides'))
    def features(self) -> tuple[Tensor, ...]:
        """What the head reads: L maps (N, C, H, W)."""
        return tuple(self._brought('features'))

    @readable()
    def backbone_features(self) -> tuple[Tensor, ...]:
        """What the backbone returns: maps (N, C, h, w), before any neck."""
        return tuple(self._brought('backbone_features'))

    def for_student(self, student: View) -> View:
        """What the same pass of a teacher shows to another student.

        Args:
            student: the view of who learns.
        """
        seen: Any = super().for_student(student)
        seen.larger = self.larger.for_student(student)
        return seen

    def precompute(self, names: Iterable[str]) -> None:
        """Compute of some properties what needs no student to have run."""
        self.larger.label = self.label
        super().precompute(names)

    def _size(self, stride: float) -> tuple[int, int]:
        """(h, w) of a map of the student's images; larger ones may be padded by more."""
        height, width = size_of(self.batch.images)
        return ceil(height / stride), ceil(width / stride)

    def _brought(self, read: str) -> list[Tensor]:
        """Maps of the larger images at the size that they have of the student's, in float32.

        Positions lie r apart exactly, whatever the larger images are padded to.

        Args:
            read: the property that holds them.
        """
        levels = zip(as_levels(getattr(self.larger, read)), strides_of_maps(self.model, read),
                     strict=True)  # fmt: skip
        found = []
        for maps, stride in levels:
            size = self._size(stride)
            # as many positions as are looked at, behind the last one too
            wanted = [ceil(n * self.scale) + 1 for n in size]
            below, right = (max(0, n - m) for n, m in zip(wanted, size_of(maps), strict=True))
            padded = F.pad(maps.float(), (0, right, 0, below), mode='replicate')
            fitting = F.interpolate(
                padded, scale_factor=1 / self.scale, mode='bilinear', align_corners=False
            )
            found.append(fitting[..., : size[0], : size[1]])
        return found


class LargerPredicting(Larger):
    """Objects are found in the larger images; their boxes are shares of the image in both."""

    larger: Any

    @readable(agree=('num_classes',))
    def detections(self) -> list[Detections]:
        """The objects found in each image, N times."""
        return self.larger.detections


class LargerFeatures(LargerPredicting, FeatureView):
    """What losses on features may look at in any host that sees other images."""


class LargerDetr(LargerPredicting, DetrView):
    """What losses may look at in a detection transformer that sees other images.

    What enters and leaves its decoder is in shares of the image.
    """

    larger: DetrView

    @readable(agree=('strides',))
    def memory(self) -> tuple[Tensor, ...]:
        """What the encoder returns: L maps (N, C, H, W)."""
        return tuple(self._brought('memory'))

    @readable(agree=('family', 'queries'))
    def queries(self) -> dict[str, Tensor]:
        """What the decoder is asked by: (N, Q, ...) by name."""
        return self.larger.queries

    @cached_property
    def _answered(self) -> tuple[Tensor, Tensor]:
        return self.larger._answered


class LargerSegmentation(Larger, SegmentationView):
    """What losses may look at in a segmentor that sees other images."""

    larger: SegmentationView

    @readable(agree=('family', 'num_classes', 'activation'))
    def seg_logits(self) -> Tensor:
        """Class logits of the decode head, (N, K, h, w)."""
        return self._brought('seg_logits')[0]

    @readable(agree=('family',))
    def head_features(self) -> Tensor:
        """What the decode head's classifier reads, (N, C, h, w)."""
        return self._brought('head_features')[0]

    @readable(agree=('family', 'num_classes', 'activation'))
    def aux_logits(self) -> tuple[Tensor, ...]:
        """Class logits of the auxiliary heads, each (N, K, h, w)."""
        return tuple(self._brought('aux_logits'))


class LargerMaskTransformer(LargerSegmentation, MaskTransformerView):
    """What losses may look at in a mask transformer that sees other images."""


class LargerDense(LargerPredicting, DenseView):
    """What losses may look at in a detector that sees other images.

    Of the larger image the level of stride r * s covers the same pixels as the student's level of
    stride s, position by position; its boxes are in strides, or deltas from anchors that are r
    times as large, and so mean the same there. A level that has no such partner, with r = 2 the
    coarsest, is the teacher's of the image in the student's size.
    """

    larger: DenseView

    @cached_property
    def _own(self) -> DenseView:
        """Its view of the images in the student's size."""
        own: Any = view_class(self.model)(self.model, self.batch, self._context, self._student)
        own.label = self.label
        return own

    @cached_property
    def _partners(self) -> list[int | None]:
        """Of each level the level of the larger image that has its place."""
        return partners(self.head, self.scale)

    @readable(agree=('family', 'strides'))
    def features(self) -> tuple[Tensor, ...]:
        """What the head reads: L maps (N, C, H, W)."""
        if not any_partner(self._partners):
            return tuple(self._brought('features'))
        return tuple(self._levels('features'))

    def _class_maps(self) -> list[Tensor]:
        return self._levels('cls_logits')

    def _box_maps(self) -> list[Tensor]:
        return self._in_own_pixels(self._levels('box_logits'))

    def _levels(self, name: str) -> list[Tensor]:
        """Maps of each level, from the larger image where it has a partner there."""
        found = []
        for level, partner in enumerate(self._partners):
            if partner is None:
                found.append(getattr(self._own, name)[level])
            else:
                height, width = self._size(self.strides[level])
                found.append(getattr(self.larger, name)[partner][..., :height, :width])
        return found

    def _in_own_pixels(self, boxes: list[Tensor]) -> list[Tensor]:
        """Encoded boxes of each level, distances that are in pixels in those of the student's."""
        if not boxes_are_in_pixels(self.head):
            return boxes
        pairs = zip(boxes, self._partners, strict=True)
        return [each if partner is None else each / self.scale for each, partner in pairs]


class LargerOneStage(LargerDense, OneStageView):
    """What losses may look at in a one-stage detector that sees other images."""

    def tail(self, tower: str, maps: Sequence[Tensor], layers: int) -> Tensor:
        """What the last layers of a tower predict from the maps of another model.

        Args:
            tower, maps, layers: see :meth:`kd_dense.views.OneStageView.tail`.
        """
        ranks = [own if other is None else other for own, other in enumerate(self._partners)]
        found = run_tower(self.head, tower, maps, layers, ranks)
        found = self._in_own_pixels(found) if tower == BOX else found
        return flatten_levels(found, found[0].shape[1] // self.num_anchors)


class LargerTwoStage(LargerDense, TwoStageView):
    """What losses may look at in a two-stage detector that sees other images.

    It scores the student's proposals where they lie in the larger images.
    """

    larger: TwoStageView

    def precompute(self, names: Iterable[str]) -> None:
        """Compute of some properties what needs no student to have run."""
        names = set(names)
        super().precompute(names - ROI)
        self.larger.precompute(names & ROI)  # of the larger images alone

    @cached_property
    def _roi_outputs(self) -> tuple[Tensor, Tensor]:
        self.larger.proposals = self._in_larger(self.proposals)
        return self.larger._roi_outputs

    @cached_property
    def _mask_outputs(self) -> Tensor:
        self.larger.masked = self.masked._replace(proposals=self._in_larger(self.masked.proposals))
        return self.larger._mask_outputs

    def _in_larger(self, proposals: Tensor) -> Tensor:
        """Where proposals (R, 5) lie in the larger images."""
        images, boxes = proposals.split((1, 4), dim=1)
        return torch.cat([images, boxes * self.scale], dim=1)


LARGER: dict[type[View], type[Larger]] = {
    FeatureView: LargerFeatures,
    DetrView: LargerDetr,
    OneStageView: LargerOneStage,
    TwoStageView: LargerTwoStage,
    SegmentationView: LargerSegmentation,
    MaskTransformerView: LargerMaskTransformer,
}


def strides_of_maps(model: Host, read: str) -> tuple[float, ...]:
    """Pixels per position of each map of a property, found by looking at one small black picture.

    Args:
        model: a host.
        read: a property of its view that holds a map, or several.
    """
    known = _strides.setdefault(model, {})
    if read not in known:
        seen = probe(model, view_class(model), reads=(read,))
        width = seen.batch.images.shape[-1]
        known[read] = tuple(width / maps.shape[-1] for maps in as_levels(getattr(seen, read)))
    return known[read]


def check_scale(scale: Any) -> None:
    """Raise SetupError unless images can be made so many times as large."""
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not 1 <= scale < float('inf'):
        raise SetupError(
            f'teacher.scale is {scale!r}; it is a number from 1 on: how many times as large as the '
            "student's the teacher's images are. Of smaller ones it would know less."
        )


def larger_view(model: Host) -> type[Larger]:
    """The kind of view of a model that sees images of another size.

    Raises:
        SetupError: it is not known of such a host.
    """
    kind = view_class(model)
    if kind not in LARGER:
        raise SetupError(
            f'teacher.scale is known of hosts that are {", ".join(k.family for k in LARGER)}; a '
            f'{type(model).__name__} is {kind.family}. Leave it out.'
        )
    return LARGER[kind]


def partners(head: Any, scale: float) -> list[int | None]:
    """Which level of an image r times as large has the place of each level of a dense head.

    Args:
        head: of a detector.
        scale: r.

    Returns:
        indices of levels; None of a level that has no partner.
    """
    levels = range(len(strides_of(head)))
    return [
        next((other for other in levels if is_partner(head, level, other, scale)), None)
        for level in levels
    ]


def any_partner(found: Sequence[int | None]) -> bool:
    """Whether some level has a partner."""
    return any(each is not None for each in found)


def not_offered(model: Host, scale: float) -> tuple[str, ...]:
    """What losses cannot read of a model that sees images of another size.

    Without levels of r times the stride, boxes of no level mean those of the student's.

    Args:
        model: the host.
        scale: r.
    """
    view = view_class(model)
    if scale == 1 or not issubclass(view, DenseView):
        return ()
    head = view.head_of(model)
    if not any_partner(partners(head, scale)):
        return DENSE
    return () if decodes_boxes(head) else BOXES


class LargerModel(BaseModel):
    """A model that predicts of images made larger, in pixels of the original image, as ever.

    Args:
        model: the host.
        scale: r.
    """

    def __init__(self, model: Host, scale: float) -> None:
        super().__init__(data_preprocessor=model.data_preprocessor)
        self.model = model
        self.scale = scale

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'predict',
    ) -> list[BaseDataElement]:
        """Predict.

        Args:
            inputs: normalised and padded, (N, 3, H, W).
            data_samples: N samples, which get the predictions.
            mode: ``'predict'``.
        """
        samples = data_samples or []
        batch = enlarged(Batch(inputs, samples), self.scale, self.model)
        found = self.model(batch.images, list(batch.samples), mode=mode)
        for sample, predicted in zip(samples, found, strict=True):
            for name, value in predicted.items():
                setattr(sample, name, value)
        return samples
