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
from torch import Tensor, nn

from ..distiller import Distiller
from ..losses.adversarial.critic import Discriminator, frozen
from ..losses.base import DistillationLoss
from ..views import SegmentationView
from .gallery import Gallery, Image, describe, spread
from .masks import NEGATIVE, POSITIVE, HeatMap, Mask
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

    def focus_columns(self, distiller: Distiller) -> list[Column]:
        """By what each discriminator in force tells the student from the teacher."""
        games = {
            name: loss
            for name, loss in distiller.losses.items()
            if loss.active and isinstance(loss.own_module(), Discriminator)
        }
        columns = []
        for name, game in games.items():
            verdicts = [judge(distiller, game, image) for image in self.images]
            limit = max(np.abs(v.reasons).max() for v in verdicts) or 1.0
            title = 'the discriminator' if len(games) == 1 else f'the discriminator of {name}'
            overlays = [[HeatMap(v.reasons, limit, v.share)] for v in verdicts]
            captions = [f'D(student) {v.student:.3g}, D(teacher) {v.teacher:.3g}' for v in verdicts]
            meanings = {
                f'against the student, -{limit:.2g}': NEGATIVE,
                f'for it, +{limit:.2g}': POSITIVE,
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
        student, teacher: scores of their segmentations.
        reasons: how much each position makes of student - teacher, (h, w).
        share: of the map's height and width, what lies on the image; the rest is padding.
    """

    student: float
    teacher: float
    reasons: np.ndarray
    share: tuple[float, float]


def judge(distiller: Distiller, game: DistillationLoss, image: Image) -> Verdict:
    """Show a discriminator what it sees in training; models are left in eval mode."""
    distiller.student.eval()
    critic = game.own_module().eval()
    batch = image.batch(distiller.student, training=True)
    view = SegmentationView(distiller.student, batch, torch.no_grad)
    ours, theirs, images = game.show(view, distiller.teachers[game.teacher_name].view(batch))
    with torch.no_grad():
        scores = [float(critic(x, images)) for x in (ours, theirs)]
    reasons = attribute(critic, ours, theirs, images)[0].cpu().numpy()
    whole = zip(image.inputs.shape[-2:], images.shape[-2:], strict=True)
    return Verdict(*scores, reasons, tuple(inner / outer for inner, outer in whole))


def attribute(
    critic: Discriminator, student: Tensor, teacher: Tensor, images: Tensor, steps: int = 16
) -> Tensor:
    """How much each position makes of D(student) - D(teacher), by integrated gradients.

    The critic's own map of scores is too coarse to look at: 16 positions become one.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv
    1703.01365, equation 1, with the teacher as the baseline.

    Args:
        critic: D.
        student, teacher: class scores, (1, K, h, w).
        images: (1, 3, H, W).
        steps: between teacher and student.

    Returns:
        (1, h, w); their sum is the difference of the scores, but for the steps being finite.
    """
    shares = (torch.arange(steps, device=student.device) + 0.5) / steps
    between = torch.lerp(teacher, student, shares.view(-1, 1, 1, 1)).requires_grad_()
    with torch.enable_grad(), frozen(critic):
        scores = critic(between, images.expand(steps, -1, -1, -1))
        (gradient,) = torch.autograd.grad(scores.sum(), between)
    return ((student - teacher) * gradient.mean(dim=0, keepdim=True)).sum(dim=1)
