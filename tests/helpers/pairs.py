"""Small hosts of each kind, batches with chosen boxes, and views of pairs, for many tests."""

from __future__ import annotations

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from torch import nn

from kd_dense.hosts import build_model, read_model_config
from kd_dense.pair import check_pair
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import Batch, OneStageView
from tests.helpers.models import NUM_CLASSES, gfl

# two padded images: sizes (h, w) that no stride divides, one object each of a different size
SIZES = ((128, 160), (90, 120))
BOXES = (
    ((10.0, 12.0, 60.0, 50.0), (70.0, 30.0, 150.0, 120.0), (20.0, 80.0, 44.0, 104.0)),
    ((30.0, 20.0, 100.0, 85.0),),
)


def with_head(head: dict, **train: object) -> dict:
    """The small GFL with another head."""
    config = gfl()
    common = dict(num_classes=NUM_CLASSES, in_channels=16, feat_channels=16, stacked_convs=1)
    config.update(type='SingleStageDetector', bbox_head=dict(common, **head))
    config['train_cfg'].update(train)
    return config


def anchors(**changes: object) -> dict:
    """Config of an anchor generator for three levels."""
    parts = dict(ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=[8, 16, 32])
    return dict(type='AnchorGenerator', **(parts | changes))


def atss() -> dict:
    """A small ATSS."""
    norm = dict(type='GN', num_groups=4, requires_grad=True)
    return with_head(
        dict(
            type='ATSSHead',
            norm_cfg=norm,
            anchor_generator=anchors(),
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
            ),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        )
    )


def retina(**head: object) -> dict:
    """A small RetinaNet with nine anchors per position."""
    nine = anchors(ratios=[0.5, 1.0, 2.0], scales_per_octave=3)
    return with_head(
        dict(type='RetinaHead', anchor_generator=nine, **head),
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type='PseudoSampler'),
    )


def fcos() -> dict:
    """A small FCOS."""
    norm = dict(type='GN', num_groups=4, requires_grad=True)
    ranges = ((-1, 32), (32, 64), (64, 1e8))
    head = dict(type='FCOSHead', norm_cfg=norm, strides=[8, 16, 32], regress_ranges=ranges)
    return with_head(head)


HOSTS = {'gfl': gfl, 'atss': atss, 'retina': retina, 'fcos': fcos}


def build(config: dict, seed: int = 0) -> nn.Module:
    """A model in evaluation mode, whose logits and batch statistics are far from their start."""
    torch.manual_seed(seed)
    model = build_model(read_model_config(config, 'student'))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith('bbox_head') and parameter.dim() > 1:
                parameter.normal_(std=0.2)
            elif name.endswith('cls.bias'):
                parameter.normal_()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
    return model.eval()


def raw(sizes: tuple = SIZES, boxes: tuple = BOXES, seed: int = 0, ignored: tuple = ()) -> dict:
    """A batch as a dataloader gives it, with images of sizes (h, w) and xyxy boxes in pixels."""
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for (h, w), own in zip(sizes, boxes, strict=True):
        inputs.append(torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8))
        labels = torch.arange(len(own)) % NUM_CLASSES
        instances = InstanceData(
            bboxes=HorizontalBoxes(torch.tensor(own).reshape(-1, 4)), labels=labels
        )
        meta = dict(img_shape=(h, w), ori_shape=(h, w), scale_factor=(1.0, 1.0))
        samples.append(DetDataSample(metainfo=meta, gt_instances=instances))
    for sample, boxes_to_ignore in zip(samples, ignored, strict=False):
        crowd = torch.tensor(boxes_to_ignore).reshape(-1, 4)
        sample.ignored_instances = InstanceData(bboxes=HorizontalBoxes(crowd))
    return dict(inputs=inputs, data_samples=samples)


def batch_for(
    model: nn.Module,
    sizes: tuple = SIZES,
    boxes: tuple = BOXES,
    seed: int = 0,
    ignored: tuple = (),
) -> Batch:
    """A batch preprocessed the model's way."""
    data = model.data_preprocessor(raw(sizes, boxes, seed, ignored), True)
    return Batch(data['inputs'], data['data_samples'])


def noted(model: nn.Module, batch: Batch) -> OneStageView:
    """The view of a student whose own loss has run."""
    view = OneStageView(model, batch)
    with view.recording():
        model.loss(batch.images, batch.samples)
    return view


def pair(
    config: dict | None = None, sizes: tuple = SIZES, boxes: tuple = BOXES, ignored: tuple = ()
) -> tuple[OneStageView, OneStageView]:
    """Views of a student, whose loss has run, and of a teacher of the same config."""
    student, teacher = build(config or gfl(), seed=0), build(config or gfl(), seed=1)
    batch = batch_for(student, sizes, boxes, ignored=ignored)
    return noted(student, batch), OneStageView(teacher, batch, torch.no_grad)


def check_models(
    student: nn.Module, teacher: nn.Module, losses: dict, same_classes: bool = True
) -> None:
    """Check a pair of two built models."""
    check_pair(student, FrozenTeacher.of(teacher, same_classes=same_classes), losses)
