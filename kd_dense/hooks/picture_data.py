"""What the pictures of a distillation show: images, predictions and regions, in input pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..regions import main_region, position_centres, region_demands, valuable_localization_region
from ..views import Batch, DenseView, view_class
from .drawing import Boxes, Dots

REGIONS = {'main': main_region, 'vlr': valuable_localization_region}
DOT_SHARE = 0.4  # of a level's stride


@dataclass(frozen=True)
class Image:
    """One image as the pipeline gives it.

    Attributes:
        name: its file.
        inputs: before any normalising, (3, H, W) in BGR, mmdet's order.
        sample: with what was annotated as ``gt_instances``, xyxy in pixels of ``inputs``.
    """

    name: str
    inputs: Tensor
    sample: DetDataSample

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3), uint8, RGB."""
        image = self.inputs.permute(1, 2, 0).clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(image.numpy()[..., ::-1])

    @property
    def truth(self) -> Boxes:
        """The annotated boxes."""
        objects = self.sample.gt_instances
        return Boxes(objects.bboxes.numpy(), objects.labels.numpy())

    def batch(self, model: nn.Module) -> Batch:
        """The image alone, preprocessed as the model wants it."""
        data = {'inputs': [self.inputs], 'data_samples': [self.sample.clone()]}
        return Batch(**_renamed(model.data_preprocessor(data, False)))


def _renamed(data: dict) -> dict:
    return {'images': data['inputs'], 'samples': data['data_samples']}


def choose_images(dataset: BaseDataset, count: int, evaluation: bool) -> list[Image]:
    """Choose images spread evenly over a data set.

    Args:
        dataset: of mmdet.
        count: how many, or all where there are fewer.
        evaluation: whether its pipeline is one for evaluation, which resizes images and not boxes.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    images = []
    for index in indices.tolist():
        data = dataset[index]
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
        name = Path(sample.metainfo.get('img_path', f'image {index}')).name
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
        with view.noting_loss():
            student.loss(view.batch.images, view.batch.samples)
        centres = position_centres(view).cpu().numpy()
        strides = np.repeat(view.strides, [h * w for h, w in view.level_sizes])
        for name in names:
            levels = view.positions(REGIONS[name](view, view))
            chosen = torch.cat([level[0].flatten() for level in levels]).cpu().numpy()
            dots[name].append(Dots(centres[chosen], strides[chosen] * DOT_SHARE))
    return dots
