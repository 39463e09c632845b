"""Small two-stage hosts, batches for them, and views of pairs, for many tests."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmdet.structures.mask import BitmapMasks
from torch import nn

from kd_dense.hosts import build_model, read_model_config
from kd_dense.views import Batch, TwoStageView
from tests.helpers.models import NUM_CLASSES, gfl
from tests.helpers.pairs import BOXES, SIZES, batch_for

STDS = (0.1, 0.1, 0.2, 0.2)


def faster_rcnn(
    channels: int = 16,
    num_classes: int = NUM_CLASSES,
    sampled: int = 24,
    stds: tuple[float, ...] = STDS,
    scales: tuple[float, ...] = (4,),
    **box_head: Any,
) -> dict:
    """A Faster R-CNN small enough to train in a test: R18, three levels.

    Args:
        channels: of the features.
        num_classes: foreground classes.
        sampled: proposals and anchors an image that the losses sample.
        stds: of the second stage's deltas.
        scales: of the anchors.
        box_head: further arguments of the second stage's head.
    """
    config = gfl(channels)
    del config['bbox_head']
    assigner = dict(type='MaxIoUAssigner', ignore_iof_thr=-1)
    sampler = dict(type='RandomSampler', num=sampled, neg_pos_ub=-1)
    config.update(
        type='FasterRCNN',
        rpn_head=dict(
            type='RPNHead',
            in_channels=channels,
            feat_channels=channels,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=list(scales),
                ratios=[0.5, 1.0, 2.0],
                strides=[8, 16, 32],
            ),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                roi_layer=dict(type='RoIAlign', output_size=5, sampling_ratio=2),
                out_channels=channels,
                featmap_strides=[8, 16, 32],
                finest_scale=28,
            ),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=channels,
                fc_out_channels=16,
                roi_feat_size=5,
                num_classes=num_classes,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=list(stds)
                ),
                **box_head,
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=dict(assigner, pos_iou_thr=0.6, neg_iou_thr=0.3, min_pos_iou=0.3),
                sampler=dict(sampler, pos_fraction=0.5, add_gt_as_proposals=False),
                allowed_border=-1,
                pos_weight=-1,
            ),
            rpn_proposal=dict(nms_pre=100, max_per_img=50, nms=dict(iou_threshold=0.7)),
            rcnn=dict(
                assigner=dict(assigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
                sampler=dict(sampler, pos_fraction=0.25, add_gt_as_proposals=True),
                pos_weight=-1,
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=100, max_per_img=50, nms=dict(iou_threshold=0.7)),
            rcnn=dict(score_thr=0.05, nms=dict(iou_threshold=0.5), max_per_img=20),
        ),
    )
    config['train_cfg']['rpn_proposal'].update(min_bbox_size=0)
    config['test_cfg']['rpn'].update(min_bbox_size=0)
    for nms in (config['train_cfg']['rpn_proposal'], *config['test_cfg'].values()):
        nms['nms']['type'] = 'nms'
    return config


def mask_rcnn(channels: int = 16, **mask_head: Any) -> dict:
    """The same with a mask head, whose further arguments may be named."""
    config = faster_rcnn(channels)
    config['type'] = 'MaskRCNN'
    extractor = copy.deepcopy(config['roi_head']['bbox_roi_extractor'])
    config['roi_head'].update(
        mask_roi_extractor=extractor,
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=1,
            in_channels=channels,
            conv_out_channels=8,
            num_classes=NUM_CLASSES,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
        )
        | mask_head,
    )
    config['train_cfg']['rcnn']['mask_size'] = 10
    config['test_cfg']['rcnn']['mask_thr_binary'] = 0.5
    return config


def cascade_rcnn(plain: dict | None = None) -> dict:
    """A Cascade R-CNN of two stages, or a Cascade Mask R-CNN.

    Args:
        plain: the Faster or Mask R-CNN whose heads its stages have.
    """
    config = plain or faster_rcnn()
    roi_head, rcnn = config['roi_head'], config['train_cfg']['rcnn']
    roi_head.update(
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_head=[copy.deepcopy(roi_head['bbox_head']) for _ in range(2)],
    )
    config['type'] = 'CascadeRCNN'
    config['train_cfg']['rcnn'] = [rcnn, copy.deepcopy(rcnn)]
    return config


def hybrid_cascade() -> dict:
    """The same as an HTC, whose stages see more than proposals: its features alone are known."""
    config = cascade_rcnn()
    config['type'] = 'HybridTaskCascade'
    config['roi_head']['type'] = 'HybridTaskCascadeRoIHead'
    return config


def losses(**weights: float) -> dict:
    """One of each kind of loss on each part; keywords set weights by name, and leave out others."""
    soft = dict(type='kd_dense.ClassWeightedSoftCrossEntropy')
    bounded = dict(type='kd_dense.BoundedRegression')
    configs = dict(
        hint=dict(type='kd_dense.FeatureImitation', adapter='conv1x1', weight=0.5),
        rpn_cls=dict(soft, part='rpn'),
        roi_cls=dict(soft, part='roi'),
        rpn_reg=dict(bounded, part='rpn'),
        roi_reg=dict(bounded, part='roi'),
    )
    if not weights:
        return configs
    return {name: configs[name] | dict(weight=weight) for name, weight in weights.items()}


def distiller(**changes: Any) -> dict:
    """Config of a distiller with an untrained, wider teacher; keywords replace its parts."""
    parts = dict(
        type='kd_dense.Distiller',
        student=faster_rcnn(),
        teacher=dict(config=faster_rcnn(channels=32), untrained=True),
        losses=losses(),
    )
    return copy.deepcopy(parts | changes)


def build(config: dict | None = None, seed: int = 0) -> nn.Module:
    """A model in evaluation mode whose predictions are far from their start."""
    torch.manual_seed(seed)
    model = build_model(read_model_config(config or faster_rcnn(), 'student'))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and ('rpn_' in name or 'fc_' in name):
                parameter.normal_(std=0.1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def noted(model: nn.Module, batch: Batch) -> TwoStageView:
    """The view of a student whose own loss has run."""
    view = TwoStageView(model, batch)
    with view.recording():
        model.loss(batch.images, batch.samples)
    return view


def pair(
    config: dict | None = None,
    teacher: dict | None = None,
    sizes: tuple = SIZES,
    boxes: tuple = BOXES,
) -> tuple[TwoStageView, TwoStageView]:
    """Views of a student, whose loss has run, and of a teacher."""
    model = build(config, seed=0)
    torch.manual_seed(0)
    student = noted(model, batch_for(model, sizes, boxes))
    model = build(teacher or config, seed=1)
    return student, TwoStageView(model, student.batch, torch.no_grad, student)


def with_masks(batch: Batch) -> Batch:
    """The same batch with a mask, the whole box, of each object."""
    for sample in batch.samples:
        height, width = sample.metainfo['img_shape']
        boxes = sample.gt_instances.bboxes
        masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, getattr(boxes, 'tensor', boxes).int().tolist(),
                                          strict=True):  # fmt: skip
            mask[y1:y2, x1:x2] = 1
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), height, width)
    return batch
