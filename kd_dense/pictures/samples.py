"""Images of a data set: which to show, what was annotated in them, what models see in them.

Boxes are xyxy in pixels. mmseg is an optional part of the installation: nothing here imports it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement
from pycocotools import mask as rle
from torch import nn

from ..views import Batch
from .draw import IGNORED, Classes
from .overlays import Boxes, Mask, Style


@dataclass(frozen=True)
class Objects:
    """Annotated or detected objects of one image.

    Attributes:
        boxes: (n, 4).
        labels: class indices, (n,).
        scores: (n,); None for annotated ones.
        ignored: bool, (n,), of annotated ones that count neither way; None for none.
        masks: run lengths of the whole image in any resolution, (n,); None for boxes alone.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    ignored: np.ndarray | None = None
    masks: np.ndarray | None = None

    def __getitem__(self, chosen: np.ndarray) -> Objects:
        """Some of them.

        Args:
            chosen: indices, or a bool for each.
        """
        parts = (self.boxes, self.labels, self.scores, self.ignored, self.masks)
        return Objects(*(None if each is None else each[chosen] for each in parts))

    def above(self, threshold: float) -> Objects:
        """Those with a higher score, the surest first."""
        order = np.argsort(-self.scores, kind='stable')
        return self[order[self.scores[order] > threshold]]

    @property
    def counts(self) -> np.ndarray:
        """Whether each counts, bool, (n,)."""
        return np.ones(len(self), bool) if self.ignored is None else ~self.ignored

    def counted(self) -> Objects:
        """Those that are not ignored."""
        return self[self.counts]

    def __len__(self) -> int:
        return len(self.boxes)


Result = Objects | np.ndarray  # of a detector; of a segmentor the class of each pixel, (h, w)


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        name: of its file.
        pixels: (H, W, 3), uint8, RGB.
        truth: what was annotated; boxes in pixels of the image, classes of any resolution.
        data: what a pipeline makes a model's input of, or has made.
    """

    name: str
    pixels: np.ndarray
    truth: Result
    data: Mapping[str, Any]


class PackedSample(Sample):
    """An image behind the pipeline of its data set.

    ``data`` has ``inputs``, before any normalising, (3, H, W) in BGR, the order of mmdet and mmseg,
    and ``data_samples``, with what was annotated, in pixels of the inputs.
    """

    def packed(self) -> dict[str, list]:
        """The image alone as a data loader gives it."""
        return {key: [copy.deepcopy(value)] for key, value in self.data.items()}

    def batch(self, model: nn.Module, training: bool = False) -> Batch:
        """The image alone, preprocessed as the model wants it for predicting or for training."""
        data = model.data_preprocessor(self.packed(), training)
        return Batch(data['inputs'], data['data_samples'])


def evenly(total: int, number: int) -> list[int]:
    """Indices spread evenly over ``total``; all where there are fewer than ``number``."""
    return np.unique(np.linspace(0, total - 1, number).round().astype(int)).tolist()


def classes_of(dataset: BaseDataset, segments: bool) -> Classes:
    """Names of the classes of a data set; where it is for segmentation its palette too."""
    palette = dataset.metainfo.get('palette') if segments else ()
    palette = palette if isinstance(palette, list | tuple) else ()
    names = tuple(dataset.metainfo.get('classes') or ())
    return Classes(names, [tuple(part / 255 for part in colour) for colour in palette])


def annotated_objects(info: Mapping[str, Any], masks: bool = False) -> Objects:
    """The objects that a data set of mmdet knows of an image, in pixels of its file.

    Args:
        info: of the image.
        masks: whether their masks are wanted, where they are annotated.
    """
    instances = info.get('instances', [])
    drawn = None
    if masks and all('mask' in each for each in instances):
        size = (info['height'], info['width'])
        drawn = _listed([_run_lengths(each['mask'], size) for each in instances])
    return Objects(
        np.array([each['bbox'] for each in instances], float).reshape(-1, 4),
        np.array([each['bbox_label'] for each in instances], int),
        ignored=np.array([each.get('ignore_flag', 0) for each in instances], bool),
        masks=drawn,
    )


def _run_lengths(mask: Any, size: tuple[int, int]) -> Mapping[str, Any]:
    """A mask as COCO annotates it, polygons or run lengths, as compressed run lengths."""
    if isinstance(mask, list):
        return rle.merge(rle.frPyObjects(mask, *size))
    return rle.frPyObjects(mask, *size) if isinstance(mask['counts'], list) else mask


def run_lengths(masks: np.ndarray) -> np.ndarray:
    """Masks (n, h, w) as compressed run lengths, (n,): those of many images fit into memory."""
    return _listed([rle.encode(np.asfortranarray(mask, np.uint8)) for mask in masks])


def _listed(masks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Run lengths as an array, of which some can be chosen."""
    found = np.empty(len(masks), object)
    found[:] = masks
    return found


def annotated_labels(sample: BaseDataElement, classes: Classes) -> np.ndarray:
    """The class of each pixel as a pipeline of mmseg loads it, or :data:`IGNORED`; (h, w)."""
    labels = sample.gt_sem_seg.data[0].numpy().astype(int)
    return np.where(labels < (len(classes.names) or 255), labels, IGNORED)


@torch.no_grad()
def predict(model: nn.Module, data: dict[str, list]) -> Result:
    """What a model sees in one image; it is left in eval mode.

    Args:
        model: of mmdet or mmseg.
        data: a batch of the image alone, as a data loader gives it; it is not changed.
    """
    model.eval()
    sample = model.test_step(copy.deepcopy(data))[0]
    if 'pred_sem_seg' in sample:
        return sample.pred_sem_seg.data[0].cpu().numpy().astype(int)
    found = sample.pred_instances.cpu()
    masks = run_lengths(found.masks.numpy()) if 'masks' in found else None
    boxes, labels, scores = (found[name].numpy() for name in ('bboxes', 'labels', 'scores'))
    return Objects(boxes, labels, scores, masks=masks)


def overlay(found: Result, threshold: float = 0) -> Boxes | Mask:
    """What was annotated or predicted, to be drawn over its image.

    Args:
        found: of one image.
        threshold: objects that are surer than this are shown.
    """
    if isinstance(found, np.ndarray):
        return Mask(found)
    return boxes_of(found.counted() if found.scores is None else found.above(threshold))


def boxes_of(objects: Objects, style: Style | None = None) -> Boxes:
    """Objects to be drawn, in the colours of their classes or all in one style."""
    return Boxes(objects.boxes, objects.labels, objects.scores, style, objects.masks)


def shared_pixels(truth: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Pixels of each class in both of two pictures, in either, and in the first; (3, count).

    Args:
        truth: class of each pixel, or :data:`IGNORED`, which does not count.
        labels: of the same shape.
        count: number of classes.
    """
    counts = truth != IGNORED
    pairs = np.bincount(truth[counts] * count + labels[counts], minlength=count * count)
    table = pairs.reshape(count, count)
    shared, annotated = table.diagonal(), table.sum(axis=1)
    return np.stack([shared, table.sum(axis=0) + annotated - shared, annotated])


def score(labels: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """How well a prediction agrees with the truth: mean IoU, and the share of right pixels.

    The mean is over the classes that either of them has, among the annotated pixels; 1 where
    nothing is annotated.
    """
    shared, union, annotated = shared_pixels(truth, labels, max(truth.max(), labels.max()) + 1)
    if not annotated.any():
        return 1.0, 1.0
    ious = shared[union > 0] / union[union > 0]
    return float(ious.mean()), float(shared.sum() / annotated.sum())
