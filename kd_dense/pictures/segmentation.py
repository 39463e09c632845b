"""Pictures of segmentors: masks, and what a discriminator makes of them.

mmseg is an optional part of the installation: nothing here imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import BaseDataset
from mmengine.structures import PixelData
from torch import nn

from ..distiller import Distiller
from ..losses.holistic import Holistic
from ..losses.stages import resized
from ..views import SegmentationView
from .gallery import Gallery, Image, describe, spread
from .masks import HeatMap, Mask, heat_colour
from .panel import IGNORED, Classes
from .sheet import Column


@dataclass(frozen=True)
class LabelledImage(Image):
    """An image with its label.

    Attributes:
        label: class indices or :data:`IGNORED`, (h, w): as it was annotated, where the pipeline
            resizes the image alone; ``sample`` has it in pixels of the image.
    """

    label: np.ndarray


class SegmentationGallery(Gallery):
    """Images with masks: annotated, predicted; and the verdicts of discriminators."""

    images: list[LabelledImage]

    def choose(self, dataset: BaseDataset, count: int, evaluation: bool) -> list[Image]:
        """Choose images, with their labels."""
        return choose_images(dataset, count)

    def read_classes(self, dataset: BaseDataset) -> Classes:
        """Names, and the palette where the data set has one."""
        palette = dataset.metainfo.get('palette') or ()
        colours = [tuple(c / 255 for c in colour) for colour in palette]
        return Classes(super().read_classes(dataset).names, colours)

    def annotated(self) -> list[Column]:
        """The images, and their labels."""
        names = [image.name for image in self.images]
        labels = [[Mask(image.label)] for image in self.images]
        return [Column('image', '', [[]] * len(names), names), Column('ground truth', '', labels)]

    def predicted(self, title: str, model: nn.Module) -> Column:
        """What a model predicts, and how well; it is left in eval mode."""
        masks = predict(model, self.images)
        scores = [score(mask, i.label) for mask, i in zip(masks, self.images, strict=True)]
        captions = [f'mIoU {100 * iou:.1f}, accuracy {100 * right:.1f}' for iou, right in scores]
        return Column(title, describe(model), [[Mask(mask)] for mask in masks], captions)

    def looked_at(self, distiller: Distiller) -> list[Column]:
        """Where each discriminator in force tells the student from the teacher."""
        games = {n: x for n, x in distiller.losses.items() if isinstance(x, Holistic) and x.active}
        columns = []
        for name, game in games.items():
            verdicts = [judge(distiller, game, image) for image in self.images]
            limit = max(np.abs(v.difference).max() for v in verdicts) or 1.0
            title = 'the discriminator' if len(games) == 1 else f'the discriminator of {name}'
            overlays = [[HeatMap(v.difference, limit, v.share)] for v in verdicts]
            captions = [f'D(student) {v.student:.3g}, D(teacher) {v.teacher:.3g}' for v in verdicts]
            meanings = {
                f'told apart, -{limit:.2g}': tuple(heat_colour(-1)),
                f'passes, +{limit:.2g}': tuple(heat_colour(1)),
            }
            columns.append(Column(title, '', overlays, captions, meanings))
        return columns


def choose_images(dataset: BaseDataset, count: int) -> list[LabelledImage]:
    """Choose images spread evenly over a data set of mmseg, with their labels."""
    images = []
    known = len(dataset.metainfo.get('classes') or ())
    for _, name, data in spread(dataset, count):
        inputs, sample = data['inputs'], data['data_samples']
        label = sample.gt_sem_seg.data
        size = tuple(inputs.shape[-2:])
        resized_label = F.interpolate(label[None].float(), size, mode='nearest-exact')[0]
        sample.gt_sem_seg = PixelData(data=resized_label.to(label.dtype))
        # predictions are wanted as the label is: of its size, and not flipped back
        sample.set_metainfo(dict(ori_shape=tuple(label.shape[-2:]), img_shape=size, flip=False))
        label = label[0].numpy().astype(int)
        label = np.where(label < (known or 255), label, IGNORED)
        images.append(LabelledImage(name, inputs, sample, label))
    return images


@torch.no_grad()
def predict(model: nn.Module, images: Sequence[LabelledImage]) -> list[np.ndarray]:
    """What a model predicts for each image, (h, w) as its label; it is left in eval mode."""
    model.eval()
    masks = []
    for image in images:
        batch = image.batch(model)
        sample = model.predict(batch.images, list(batch.samples))[0]
        masks.append(sample.pred_sem_seg.data[0].cpu().numpy().astype(int))
    return masks


def score(mask: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """How well a mask agrees with the label: mean IoU, and the share of right pixels.

    The mean is over the classes that either of them has, among the annotated pixels; 1 where
    nothing is annotated.
    """
    mask, label = mask[label != IGNORED], label[label != IGNORED]
    ious = [
        ((mask == i) & (label == i)).sum() / ((mask == i) | (label == i)).sum()
        for i in np.union1d(mask, label)
    ]
    return (float(np.mean(ious)), float((mask == label).mean())) if ious else (1.0, 1.0)


@dataclass(frozen=True)
class Verdict:
    """What a discriminator makes of one image.

    Attributes:
        student, teacher: mean scores of their maps.
        difference: of the scores of each position, student - teacher, (h, w).
        share: of the image in the map's height and width, the rest is padding.
    """

    student: float
    teacher: float
    difference: np.ndarray
    share: tuple[float, float]


@torch.no_grad()
def judge(distiller: Distiller, game: Holistic, image: Image) -> Verdict:
    """Show a discriminator what it sees in training; models are left in eval mode."""
    distiller.student.eval()
    game.eval()
    batch = image.batch(distiller.student, training=True)
    view = SegmentationView(distiller.student, batch)
    logits = view.seg_logits.float()
    size = tuple(logits.shape[-2:])
    valid = view.valid_at(size)[:, None]
    theirs = resized(distiller.teacher.view(batch).seg_logits.float(), size)
    ours, theirs = (
        game.discriminator.verdict(x.softmax(dim=1) * valid, batch.images.float())[0].cpu()
        for x in (logits, theirs)
    )
    whole = zip(image.inputs.shape[-2:], batch.images.shape[-2:], strict=True)
    share = tuple(inner / outer for inner, outer in whole)
    return Verdict(float(ours.mean()), float(theirs.mean()), (ours - theirs).numpy(), share)
