"""A few images of a data set as a training or validation shows them, and what models see there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import nn

from ..distiller import Distiller
from ..hosts.heads import stages_of
from .draw import Classes
from .focus import REGIONS, look, verdicts
from .overlays import HeatMap, Style
from .samples import (
    Objects,
    PackedSample,
    annotated_labels,
    annotated_objects,
    classes_of,
    evenly,
    overlay,
    predict,
    run_lengths,
    score,
)
from .sheet import Column


class Gallery:
    """A few images of a data set, and what models see in them.

    Args:
        dataset: of mmdet or mmseg.
        count: how many images, spread evenly, or all where there are fewer.
        evaluation: whether the data set's pipeline is one for evaluation, which resizes images and
            not what was annotated.
        score_thr: objects that are surer than this are shown.

    Attributes:
        images: the images.
        classes: of the data set.
    """

    def __init__(
        self, dataset: BaseDataset, count: int, evaluation: bool = True, score_thr: float = 0.3
    ) -> None:
        self.images: list[PackedSample] = list(choose(dataset, count, evaluation))
        self.segments = isinstance(self.images[0].truth, np.ndarray)
        self.classes: Classes = classes_of(dataset, self.segments)
        self.score_thr = score_thr

    def annotated(self) -> list[Column]:
        """What was annotated; beside masks, which cover them, the images too."""
        names = [image.name for image in self.images]
        truth = [[overlay(image.truth)] for image in self.images]
        if not self.segments:
            return [Column('ground truth', '', truth, names)]
        return [Column('image', '', [[]] * len(names), names), Column('ground truth', '', truth)]

    def predicted(self, title: str, model: nn.Module) -> Column:
        """What a model predicts, by its own preprocessing; it is left in eval mode."""
        found = [predict(model, image.packed()) for image in self.images]
        captions = []
        if self.segments:
            pairs = zip(found, self.images, strict=True)
            scores = [score(labels, image.truth) for labels, image in pairs]
            captions = [
                f'mIoU {100 * iou:.1f}, accuracy {100 * right:.1f}' for iou, right in scores
            ]
        overlays = [[overlay(each, self.score_thr)] for each in found]
        return Column(title, describe(model), overlays, captions)

    def focus_columns(self, distiller: Distiller) -> list[Column]:
        """What the losses look at; to be called on all ranks, models are left in eval mode.

        Of a detector the main region and the valuable one, where its head defines them; of a
        segmentor by what each discriminator in force tells it from its teacher.
        """
        return self._verdicts(distiller) if self.segments else self._regions(distiller)

    def _regions(self, distiller: Distiller) -> list[Column]:
        dots = look(distiller.student, self.images)
        if not dots:
            return []
        boxes = [replace(overlay(i.truth), style=Style('white', named=False)) for i in self.images]
        overlays = [
            [box, *(dots[name][index] for name in reversed(dots))]
            for index, box in enumerate(boxes)
        ]
        meanings = dict(REGIONS[name][1:] for name in dots)
        return [Column('where distillation looks', '', overlays, meanings=meanings)]

    def _verdicts(self, distiller: Distiller) -> list[Column]:
        columns = []
        found = verdicts(distiller, self.images)
        for name, each in found.items():
            limit = max(np.abs(v.reasons).max() for v in each) or 1.0
            overlays = [[HeatMap(v.reasons, limit, v.share)] for v in each]
            captions = [f'D(student) {v.student:.3g}, D(teacher) {v.teacher:.3g}' for v in each]
            words = (f'against the student, -{limit:.2g}', f'for it, +{limit:.2g}')
            meanings = dict(zip(words, overlays[0][0].colours, strict=True))
            title = 'the discriminator' if len(found) == 1 else f'the discriminator of {name}'
            columns.append(Column(title, '', overlays, captions, meanings))
        return columns


def choose(dataset: BaseDataset, count: int, evaluation: bool) -> Iterator[PackedSample]:
    """Samples spread evenly over a data set; see :class:`Gallery`."""
    for index in evenly(len(dataset), count):
        data = dataset[index]
        inputs, sample = data['inputs'], data['data_samples']
        path = Path(sample.metainfo.get('img_path', f'image {index}'))
        if 'gt_sem_seg' in sample and 'data' in sample.gt_sem_seg:  # mmseg's
            truth = annotated_labels(sample, classes_of(dataset, segments=True))
            sample = _enlarged(sample, tuple(inputs.shape[-2:]))
        else:
            truth = _objects(sample, dataset.get_data_info(index) if evaluation else None)
            sample = _with_objects(sample, truth)
        pixels = inputs.permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()[..., ::-1]
        packed: dict[str, Any] = dict(inputs=inputs, data_samples=sample)
        yield PackedSample(path.name, np.ascontiguousarray(pixels), truth, packed)


def _enlarged(sample: BaseDataElement, size: tuple[int, int]) -> BaseDataElement:
    """A sample whose label has the size of the image, for the losses."""
    label = sample.gt_sem_seg.data
    resized = F.interpolate(label[None].float(), size, mode='nearest-exact')[0]
    sample.gt_sem_seg = PixelData(data=resized.to(label.dtype))
    # predictions are wanted as the label is: of its size, and not flipped back
    sample.set_metainfo(dict(ori_shape=tuple(label.shape[-2:]), img_shape=size, flip=False))
    return sample


def _objects(sample: BaseDataElement, info: dict[str, Any] | None) -> Objects:
    """The annotated objects in pixels of the inputs, those that count."""
    masked = 'masks' in sample.gt_instances
    if info is not None:
        known = annotated_objects(info, masked).counted()
        scale = np.tile(sample.metainfo.get('scale_factor', (1.0, 1.0)), 2)
        return replace(known, boxes=(known.boxes * scale).astype(np.float32), ignored=None)
    masks = run_lengths(sample.gt_instances.masks.to_ndarray()) if masked else None
    known = sample.gt_instances.numpy()
    boxes = np.asarray(getattr(known.bboxes, 'tensor', known.bboxes))
    return Objects(boxes, known.labels, masks=masks)


def _with_objects(sample: BaseDataElement, truth: Objects) -> DetDataSample:
    """A sample with these objects alone, predictions for which stay in pixels of the inputs."""
    whole = dict(scale_factor=(1.0, 1.0), ori_shape=sample.metainfo.get('img_shape'))
    found = DetDataSample(metainfo=sample.metainfo | whole)
    found.gt_instances = InstanceData(
        bboxes=torch.as_tensor(truth.boxes), labels=torch.as_tensor(truth.labels)
    )
    return found


def describe(model: nn.Module) -> str:
    """A model in a few words: ``GFL, ResNet-18, 19.1 M parameters``."""
    # segmentors are all called alike, their heads are not
    name = type(stages_of(getattr(model, 'decode_head', model))[-1]).__name__
    backbone = getattr(model, 'backbone', None)
    depth = getattr(backbone, 'depth', None)
    trunk = type(backbone).__name__ + ('' if depth is None else f'-{depth}')
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f'{name}, {trunk}, {millions:.3g} M parameters'
