"""The steps that the benchmark times, on images of noise."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from ..views import Batch

BOXES_PER_IMAGE = 7
PROPOSALS_PER_IMAGE = 512


def noise_images(images: int, size: int) -> list[Tensor]:
    """Images as a data loader gives them, uint8, (3, size, size)."""
    generator = torch.Generator().manual_seed(0)
    shape = (images, 3, size, size)
    return list(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))


def noise_boxes(images: int, size: int, num_classes: int = 80) -> list:
    """Samples with boxes of 16 pixels to half the image."""
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        low = torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * size / 2
        extent = 16 + torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * (size / 2 - 16)
        labels = torch.randint(0, num_classes, (BOXES_PER_IMAGE,), generator=generator)
        sample = DetDataSample(
            gt_instances=InstanceData(bboxes=torch.cat([low, low + extent], 1), labels=labels),
            metainfo=dict(img_shape=(size, size), scale_factor=(1.0, 1.0)),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()
        )
        samples.append(sample)
    return samples


def noise_labels(images: int, size: int, num_classes: int = 19) -> list:
    """Samples with a class for each pixel."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        sample = SegDataSample(metainfo=dict(img_shape=(size, size), ori_shape=(size, size)))
        label = torch.randint(0, num_classes, (1, size, size), generator=generator)
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return samples


def critic_step(model: nn.Module, optimizer: OptimWrapper, data: dict) -> Callable[[], None]:
    """Forward, backward and update of the discriminator alone, on what one batch shows it."""
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    model(**batch, mode='loss')
    ((name, shown),) = model.shown.items()

    def run() -> None:
        total = model.losses[name].own_losses(shown)['total']
        optimizer['discriminator'].update_params(total)

    return run


def teacher_forward(model: nn.Module, data: dict) -> None:
    """The teacher as its host runs it, no gradients: trunk and heads, on as many proposals."""
    with torch.no_grad():
        batch = model.data_preprocessor(copy.deepcopy(data), True)
        features = model.extract_feat(batch['inputs'])
        if hasattr(model, 'bbox_head'):
            model.bbox_head(features)
        elif hasattr(model, 'decode_head'):
            model.decode_head(features)
        else:
            model.rpn_head(features)
            model.roi_head._bbox_forward(features, noise_proposals(batch['inputs']))


def noise_proposals(images: Tensor) -> Tensor:
    """As many proposals as the student samples: (image, x1, y1, x2, y2) in pixels, (R, 5)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.arange(len(images)).repeat_interleave(PROPOSALS_PER_IMAGE)[:, None]
    low, extent = torch.rand(2, len(image), 2, generator=generator) * images.shape[-1] / 2
    return torch.cat([image, low, low + extent.clamp(min=16)], dim=1).to(images)


def losses_only(model: nn.Module, data: dict) -> Callable[[], None]:
    """Forward and backward of the distillation losses alone, down to the student's outputs."""
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    batch = Batch(batch['inputs'], batch['data_samples'])
    student = model._view(model.student, batch)
    with student.recording():
        model.student(batch.images, batch.samples, mode='loss')
    teacher = model.teacher.view(batch)
    ours, theirs = model._view(model.student, batch), model._view(model.teacher.model, batch)
    for view, noted, leaf in ((ours, student, True), (theirs, teacher, False)):
        view.features = noted.features
        view.cls_logits = [m.detach().requires_grad_(leaf) for m in noted.cls_logits]
        view.box_logits = [m.detach().requires_grad_(leaf) for m in noted.box_logits]
    ours.assignment = student.assignment
    given = {id(view): dict(vars(view)) for view in (ours, theirs)}

    def run() -> None:
        for view in (ours, theirs):  # forget what the last run derived
            vars(view).clear()
            vars(view).update(given[id(view)])
        sum(loss(ours, theirs) * loss.scale for loss in model.losses.values()).backward()

    return run
