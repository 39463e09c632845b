"""Small models and batches that many tests share."""

from __future__ import annotations

import copy
import socket
from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from torch import Tensor

NUM_CLASSES = 3


def _convolves_in_half() -> bool:
    try:
        torch.nn.functional.conv2d(torch.ones(1, 1, 1, 1).half(), torch.ones(1, 1, 1, 1).half())
    except RuntimeError:
        return False
    return True


FLOAT16 = pytest.param(
    'float16',
    marks=pytest.mark.skipif(not _convolves_in_half(), reason='torch convolves no float16 here'),
)


def gfl(channels: int = 16, base: int = 8, num_classes: int = NUM_CLASSES, **head: Any) -> dict:
    """Config of a GFL small enough to train in a test: R18, three levels."""
    return dict(
        _scope_='mmdet',
        type='GFL',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type='ResNet',
            depth=18,
            base_channels=base,
            stem_channels=base,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            norm_cfg=dict(type='BN', requires_grad=True),
            norm_eval=False,
            style='pytorch',
        ),
        neck=dict(
            type='FPN',
            in_channels=[base, base * 2, base * 4, base * 8],
            out_channels=channels,
            start_level=1,
            num_outs=3,
        ),
        bbox_head=dict(
            type='GFLHead',
            num_classes=num_classes,
            in_channels=channels,
            feat_channels=channels,
            stacked_convs=1,
            norm_cfg=dict(type='GN', num_groups=4, requires_grad=True),
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=4,
                scales_per_octave=1,
                strides=[8, 16, 32],
            ),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
            loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
            reg_max=8,
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            **head,
        ),
        train_cfg=dict(
            assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1
        ),
        test_cfg=dict(
            nms_pre=100, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=20
        ),
    )


def losses(**weights: float) -> dict:
    """One of each kind of loss; keywords set weights by name, and leave out the others."""
    configs = dict(
        ld=dict(type='kd_dense.LocalizationDistillation', region='main'),
        vlr=dict(type='kd_dense.LocalizationDistillation', region='vlr'),
        cls=dict(type='kd_dense.SoftTargets', region='main', temperature=2, activation='softmax'),
        imitation=dict(type='kd_dense.FeatureImitation', region='main'),
    )
    if not weights:
        return configs
    return {name: configs[name] | dict(weight=weight) for name, weight in weights.items()}


def distiller(**changes: Any) -> dict:
    """Config of a distiller with an untrained, wider teacher; keywords replace its parts."""
    parts = dict(
        type='kd_dense.Distiller',
        student=gfl(),
        teacher=dict(config=gfl(channels=32), untrained=True),
        losses=losses(),
    )
    return copy.deepcopy(parts | changes)


def raw_batch(num_boxes: tuple[int, ...] = (3, 2), seed: int = 0) -> dict:
    """A batch as a dataloader gives it: images of different sizes, num_boxes objects each."""
    shapes = [[3, 128, 160], [3, 96, 128], [3, 160, 96], [3, 120, 152]][: len(num_boxes)]
    torch.manual_seed(seed)
    data = demo_mm_inputs(
        len(num_boxes),
        shapes,
        num_items=list(num_boxes),
        num_classes=NUM_CLASSES,
        use_box_type=True,
    )
    for sample in data['data_samples']:  # demo boxes may be thinner than a position: widen them
        boxes = sample.gt_instances.bboxes.tensor
        if len(boxes):
            boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 12)
    return data


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients by name."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def free_port() -> str:
    """A port that nobody listens on, for ranks to meet."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])
