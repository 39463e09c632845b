"""Small segmentors and batches, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from torch import Tensor, nn

from kd_dense.hosts import build_model, read_model_config
from kd_dense.views import Batch, SegmentationView

CLASSES = ('ground', 'disc', 'square')
SIZE = 64


def segmentor(
    width: int = 8,
    stride: int = 8,
    classes: int = len(CLASSES),
    auxiliary: bool = True,
    **head: Any,
) -> dict:
    """Config of a PSPNet on a thin ResNet-18.

    Args:
        width: channels of the first stage.
        stride: pixels per position of the logits, 8, 16 or 32.
        classes: number of classes.
        auxiliary: whether it has an auxiliary head.
        head: what differs in the decode head.
    """
    norm = dict(type='BN', requires_grad=True)
    strides = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}[stride]
    dilations = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}[stride]
    common = dict(
        norm_cfg=norm,
        num_classes=classes,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    )
    model = dict(
        type='EncoderDecoder',
        _scope_='mmseg',
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            size_divisor=32,
            seg_pad_val=255,
        ),
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            base_channels=width,
            stem_channels=width,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            dilations=dilations,
            strides=strides,
            norm_cfg=norm,
            norm_eval=False,
            style='pytorch',
            contract_dilation=True,
        ),
        decode_head=dict(
            type='PSPHead',
            in_channels=8 * width,
            in_index=3,
            channels=2 * width,
            pool_scales=(1, 2),
            dropout_ratio=0.0,
            **common,
        )
        | head,
        auxiliary_head=dict(
            type='FCNHead',
            in_channels=4 * width,
            in_index=2,
            channels=width,
            num_convs=1,
            concat_input=False,
            dropout_ratio=0.0,
            **(common | dict(loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    if not auxiliary:
        del model['auxiliary_head']
    return model


def distiller(
    losses: dict | None = None,
    student: dict | None = None,
    teacher: dict | None = None,
    **more: Any,
) -> dict:
    """Config of a distiller of two small segmentors, the teacher twice as wide and untrained."""
    return (
        dict(
            type='kd_dense.Distiller',
            student=student or segmentor(),
            teacher=dict(config=teacher or segmentor(width=16), untrained=True),
            losses=losses or dict(pixel=dict(type='kd_dense.PixelWise')),
        )
        | more
    )


def raw_batch(
    sizes: tuple[tuple[int, int], ...] = ((SIZE, SIZE), (SIZE - 24, SIZE - 8)), seed: int = 0
) -> dict[str, list]:
    """Images with discs and squares on noise as a data loader gives them, some pixels ignored."""
    from mmseg.structures import SegDataSample

    rng = np.random.default_rng(seed)
    inputs: list[Tensor] = []
    samples = []
    for height, width in sizes:
        image = rng.integers(0, 80, (3, height, width)).astype(np.float32)
        label = np.zeros((height, width), np.int64)
        rows, columns = np.mgrid[:height, :width]
        for kind in (1, 2):
            y, x = rng.integers(8, height - 8), rng.integers(8, width - 8)
            near = (
                np.hypot(rows - y, columns - x)
                if kind == 1
                else np.maximum(abs(rows - y), abs(columns - x))
            )
            label[near < 8] = kind
            image[kind, near < 8] += 150
        label[:2] = 255
        inputs.append(torch.from_numpy(image).to(torch.uint8))
        sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(label)[None])
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def build(config: dict, seed: int = 0) -> nn.Module:
    """A segmentor with random weights, its classifiers' too."""
    torch.manual_seed(seed)
    model = build_model(read_model_config(config, 'student'))
    for head in (model.decode_head, *([model.auxiliary_head] if model.with_auxiliary_head else [])):
        nn.init.normal_(head.conv_seg.weight)
    return model


def pair(student: dict | None = None, teacher: dict | None = None) -> tuple[nn.Module, nn.Module]:
    """A student in training and a teacher, of other weights."""
    return build(student or segmentor(), 0).train(), build(teacher or segmentor(), 1).eval()


def views(
    student: nn.Module, teacher: nn.Module, raw: dict | None = None
) -> tuple[SegmentationView, SegmentationView]:
    """Both views of one batch; of the student, after its own loss has run."""
    data = student.data_preprocessor(raw or raw_batch(), True)
    batch = Batch(data['inputs'], data['data_samples'])
    ours = SegmentationView(student, batch)
    with ours.recording():
        student(data['inputs'], data['data_samples'], mode='loss')
    if teacher is student:  # the very same tensors
        return ours, ours
    return ours, SegmentationView(teacher, batch, torch.no_grad)
