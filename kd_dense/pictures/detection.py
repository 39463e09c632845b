"""Pictures of detectors: boxes, and the regions of localization distillation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData
from torch import nn

from ..distiller import Distiller
from ..losses.regions import (
    main_region,
    position_centres,
    region_demands,
    valuable_localization_region,
)
from ..views import DenseView, view_class
from .boxes import Boxes, Dots
from .gallery import Gallery, Image, describe, spread
from .sheet import Column

REGIONS = {'main': main_region, 'vlr': valuable_localization_region}
TITLES = {'main': 'main region', 'vlr': 'valuable localization region'}
COLOURS = {'main': '#1a9e3f', 'vlr': '#f28500'}
DOT_SHARE = 0.4  # of a level's stride


class DetectionGallery(Gallery):
    """Images with boxes: annotated, predicted; and the positions that regions choose."""

    def choose(self, dataset: BaseDataset, count: int, evaluation: bool) -> list[Image]:
        """Choose images, with their boxes."""
        return choose_images(dataset, count, evaluation)

    def annotated(self) -> list[Column]:
        """The annotated boxes."""
        truth = [[annotated_boxes(image)] for image in self.images]
        return [Column('ground truth', '', truth, [image.name for image in self.images])]

    def predicted(self, title: str, model: nn.Module) -> Column:
        """What a model finds, by its own preprocessing; it is left in eval mode."""
        found = predict(model, self.images, self.score_thr)
        return Column(title, describe(model), [[boxes] for boxes in found])

    def focus_columns(self, distiller: Distiller) -> list[Column]:
        """The main region and the valuable one, where the student's head defines them."""
        dots = look(distiller.student, self.images)
        if not dots:
            return []
        overlays = [
            [replace(annotated_boxes(image), plain=True), *(dots[n][i] for n in reversed(dots))]
            for i, image in enumerate(self.images)
        ]
        meanings = {TITLES[name]: COLOURS[name] for name in dots}
        return [Column('where distillation looks', '', overlays, meanings=meanings)]


def annotated_boxes(image: Image) -> Boxes:
    """The annotated boxes, xyxy in pixels of the image."""
    objects = image.sample.gt_instances
    return Boxes(objects.bboxes.numpy(), objects.labels.numpy())


def choose_images(dataset: BaseDataset, count: int, evaluation: bool) -> list[Image]:
    """Choose images spread evenly over a data set.

    Args:
        dataset: of mmdet.
        count: how many, or all where there are fewer.
        evaluation: whether its pipeline is one for evaluation, which resizes images and not boxes.
    """
    images = []
    for index, name, data in spread(dataset, count):
        sample = data['data_samples']
        if evaluation:
            scale = np.tile(sample.metainfo.get('scale_factor', (1.0, 1.0)), 2)
            known = dataset.get_data_info(index).get('instances', [])
            known = [each for each in known if not each.get('ignore_flag')]
            boxes = np.array([each['bbox'] for each in known], np.float32).reshape(-1, 4) * scale
            labels = np.array([each['bbox_label'] for each in known], np.int64)
        else:
            objects = sample.gt_instances.numpy()
            boxes, labels = getattr(objects.bboxes, 'tensor', objects.bboxes), objects.labels
        sample = DetDataSample(metainfo=sample.metainfo)
        sample.gt_instances = InstanceData(
            bboxes=torch.as_tensor(boxes, dtype=torch.float32), labels=torch.as_tensor(labels)
        )
        images.append(Image(name, data['inputs'], sample))
    return images


@torch.no_grad()
def predict(model: nn.Module, images: list[Image], score_thr: float) -> list[Boxes]:
    """What a model finds in each image, by its own preprocessing; it is left in eval mode."""
    model.eval()
    found = []
    for image in images:
        batch = image.batch(model)
        sample = model.predict(batch.images, list(batch.samples), rescale=False)[0]
        result = sample.pred_instances.detach().cpu()
        result = result[result.scores >= score_thr]
        found.append(Boxes(result.bboxes.numpy(), result.labels.numpy(), result.scores.numpy()))
    return found


@torch.no_grad()
def look(student: nn.Module, images: list[Image]) -> dict[str, list[Dots]]:
    """Where distillation looks: the positions of each region that the student's head defines.

    To be called on all ranks, because losses count over all of them; the student is left in eval
    mode, in which it assigns the same labels.

    Returns:
        dots of each image, by name of the region; without those that are not defined.
    """
    view_type = view_class(student)
    if not issubclass(view_type, DenseView) or getattr(student, 'with_mask', False):
        return {}  # nothing dense, or a loss that wants masks, which the images come without
    names = [name for name in REGIONS if not region_demands(name, student)]
    student.eval()
    dots: dict[str, list[Dots]] = {name: [] for name in names}
    for image in images if names else ():
        view = view_type(student, image.batch(student))
        with view.recording():
            student.loss(view.batch.images, view.batch.samples)
        centres = position_centres(view).cpu().numpy()
        strides = np.repeat(view.strides, [h * w for h, w in view.level_sizes])
        for name in names:
            levels = view.positions(REGIONS[name](view, view))
            chosen = torch.cat([level[0].flatten() for level in levels]).cpu().numpy()
            dots[name].append(Dots(centres[chosen], strides[chosen] * DOT_SHARE, COLOURS[name]))
    return dots
