"""Small detection transformers of each kind, and views of pairs of them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from kd_dense.hosts import build_model, read_model_config
from kd_dense.views import Batch, DetrView
from tests.helpers.models import NUM_CLASSES, gfl
from tests.helpers.pairs import raw

WIDTH = 32
# two padded images, the second one without a multiple of any stride
SIZES = ((64, 96), (50, 70))
BOXES = (((6.0, 8.0, 40.0, 30.0), (50.0, 20.0, 90.0, 60.0)), ((10.0, 12.0, 44.0, 40.0),))

FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0)
BOX_COSTS = [
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]


def _host(
    kind: str, head: str, queries: int, base: int, dropout: float, costs: str, width: int = WIDTH
) -> dict:
    backbone = gfl(base=base)['backbone'] | dict(norm_eval=True)
    levels = 1 if kind in ('DETR', 'ConditionalDETR', 'DABDETR') else 2
    backbone['out_indices'] = (3,) if levels == 1 else (2, 3)
    normalised = dict(normalize=True, num_feats=width // 2)
    feedforward = dict(
        embed_dims=width,
        feedforward_channels=32,
        num_fcs=2,
        ffn_drop=dropout,
        act_cfg=dict(type='ReLU', inplace=True),
    )
    attention = dict(embed_dims=width, num_heads=4, dropout=dropout, batch_first=True)
    return dict(
        _scope_='mmdet',
        type=kind,
        num_queries=queries,
        data_preprocessor=gfl()['data_preprocessor'] | dict(pad_size_divisor=1),
        backbone=backbone,
        neck=dict(
            type='ChannelMapper',
            in_channels=[base * 8] if levels == 1 else [base * 4, base * 8],
            kernel_size=1,
            out_channels=width,
            act_cfg=None,
            norm_cfg=None if levels == 1 else dict(type='GN', num_groups=4),
            num_outs=levels,
        ),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feedforward)),
        decoder=dict(
            num_layers=2,
            return_intermediate=True,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feedforward),
        ),
        positional_encoding=normalised,
        bbox_head=dict(
            type=head,
            num_classes=NUM_CLASSES,
            embed_dims=width,
            loss_cls=FOCAL,
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(
                type='HungarianAssigner', match_costs=[dict(type=costs, weight=2.0), *BOX_COSTS]
            )
        ),
        test_cfg=dict(max_per_img=queries),
    )


def detr(queries: int = 10, base: int = 8, dropout: float = 0.1) -> dict:
    """A small DETR, whose head scores by softmax."""
    config = _host('DETR', 'DETRHead', queries, base, dropout, 'ClassificationCost')
    config['bbox_head']['loss_cls'] = dict(
        type='CrossEntropyLoss', bg_cls_weight=0.1, class_weight=1.0, loss_weight=1.0
    )
    config['decoder']['post_norm_cfg'] = dict(type='LN')
    return config


def conditional(queries: int = 10, base: int = 8, dropout: float = 0.1) -> dict:
    """A small Conditional DETR; mmdet's knows one width."""
    config = _host(
        'ConditionalDETR', 'ConditionalDETRHead', queries, base, dropout, 'FocalLossCost', 256
    )
    for attention in ('self_attn_cfg', 'cross_attn_cfg'):
        config['decoder']['layer_cfg'][attention] = dict(
            embed_dims=256, num_heads=4, attn_drop=dropout, cross_attn=attention[0] == 'c'
        )
    return config


def dab(queries: int = 10, base: int = 8, dropout: float = 0.1) -> dict:
    """A small DAB-DETR."""
    config = _host('DABDETR', 'DABDETRHead', queries, base, dropout, 'FocalLossCost')
    config |= dict(num_patterns=0, with_random_refpoints=False)
    activation = dict(act_cfg=dict(type='PReLU'))
    for part in ('encoder', 'decoder'):
        config[part]['layer_cfg']['ffn_cfg'] = config[part]['layer_cfg']['ffn_cfg'] | activation
    config['decoder'] |= dict(
        query_dim=4, query_scale_type='cond_elewise', with_modulated_hw_attn=True
    )
    for attention in ('self_attn_cfg', 'cross_attn_cfg'):
        config['decoder']['layer_cfg'][attention] = dict(
            embed_dims=WIDTH, num_heads=4, attn_drop=dropout, cross_attn=attention[0] == 'c'
        )
    return config


def deformable(
    queries: int = 10, base: int = 8, dropout: float = 0.1, two_stage: bool = False, **changes: Any
) -> dict:
    """A small Deformable DETR of one stage."""
    kind = changes.pop('kind', ('DeformableDETR', 'DeformableDETRHead'))
    width = changes.pop('width', WIDTH)
    config = _host(*kind, queries, base, dropout, 'FocalLossCost', width)
    config |= dict(num_feature_levels=2, as_two_stage=two_stage, with_box_refine=two_stage)
    attention = dict(embed_dims=width, num_heads=4, num_levels=2, num_points=2, dropout=dropout)
    deform = dict(attention, batch_first=True)
    config['encoder']['layer_cfg']['self_attn_cfg'] = deform
    config['decoder']['layer_cfg']['cross_attn_cfg'] = deform
    config['decoder']['post_norm_cfg'] = None
    return config | changes


def deformable_two_stage(queries: int = 10, base: int = 8, dropout: float = 0.1) -> dict:
    """A small Deformable DETR of two stages; mmdet's knows one width."""
    return deformable(queries, base, dropout, two_stage=True, width=256)


def dino(queries: int = 10, base: int = 8, dropout: float = 0.1, **changes: Any) -> dict:
    """A small DINO."""
    kind = changes.pop('kind', ('DINO', 'DINOHead'))
    noise = dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=6),
    )
    config = deformable(queries, base, dropout, two_stage=True, kind=kind, dn_cfg=noise)
    return config | changes


def ddq(queries: int = 10, base: int = 8, dropout: float = 0.1) -> dict:
    """A small DDQ."""
    return dino(
        queries,
        base,
        dropout,
        kind=('DDQDETR', 'DDQDETRHead'),
        dqs_cfg=dict(type='nms', iou_threshold=0.8),
    )


HOSTS = {
    'detr': detr,
    'conditional': conditional,
    'dab': dab,
    'deformable': deformable,
    'deformable two-stage': deformable_two_stage,
    'dino': dino,
    'ddq': ddq,
}


def build(config: dict, seed: int = 0) -> nn.Module:
    """A model in evaluation, whose answers differ from query to query and from seed to seed."""
    torch.manual_seed(seed)
    model = build_model(read_model_config(copy.deepcopy(config), 'student'))
    model.init_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith('bbox_head') and parameter.dim() > 1:
                parameter.normal_(std=0.2)
            elif name.startswith('query_embedding'):
                parameter.normal_()
    return model.eval()


def batch_for(model: nn.Module, boxes: tuple = BOXES, seed: int = 0) -> Batch:
    """A batch preprocessed the model's way."""
    data = model.data_preprocessor(raw(SIZES, boxes, seed), True)
    return Batch(data['inputs'], data['data_samples'])


def noted(model: nn.Module, batch: Batch) -> DetrView:
    """The view of a student whose own loss has run, in training."""
    view = DetrView(model.train(), batch)
    torch.manual_seed(3)
    with view.recording():
        model.loss(batch.images, batch.samples)
    return view


def pair(
    student: dict, teacher: dict | None = None, boxes: tuple = BOXES
) -> tuple[DetrView, DetrView]:
    """Views of a student, whose loss has run, and of a teacher."""
    own, looked_at = build(student), build(teacher or student, 1).requires_grad_(False)
    batch = batch_for(own, boxes)
    return noted(own, batch), DetrView(looked_at, batch, torch.no_grad)
