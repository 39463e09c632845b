"""Small mask transformers, for tests."""

from __future__ import annotations

from typing import Any

from tests.helpers.segmentation import CLASSES, segmentor

CHANNELS = 16


def mask2former(width: int = 8, classes: int = len(CLASSES), queries: int = 6) -> dict:
    """Config of a Mask2Former of mmseg on a thin ResNet-18, of one layer each."""
    attention = dict(embed_dims=CHANNELS, num_heads=2, batch_first=True)
    feed = dict(embed_dims=CHANNELS, feedforward_channels=CHANNELS, num_fcs=2)
    head = _head(width, classes, queries)
    head |= dict(
        type='Mask2FormerHead',
        strides=[4, 8, 16, 32],
        num_transformer_feat_level=3,
        pixel_decoder=dict(
            type='mmdet.MSDeformAttnPixelDecoder',
            num_outs=3,
            norm_cfg=dict(type='GN', num_groups=4),
            act_cfg=dict(type='ReLU'),
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(
                    self_attn_cfg=dict(attention, num_levels=3, num_points=2), ffn_cfg=feed
                ),
            ),
            positional_encoding=dict(num_feats=CHANNELS // 2, normalize=True),
        ),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=1,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed),
        ),
        loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
    )
    head['train_cfg'] |= dict(num_points=64, oversample_ratio=3.0, importance_sample_ratio=0.75)
    costs = head['train_cfg']['assigner']['match_costs']
    costs[1] = dict(type='mmdet.CrossEntropyLossCost', use_sigmoid=True)
    return _on_backbone(head, width)


def maskformer(width: int = 8, classes: int = len(CLASSES), queries: int = 6) -> dict:
    """Config of a MaskFormer of mmseg, likewise."""
    attention = dict(embed_dims=CHANNELS, num_heads=2, batch_first=True)
    feed = dict(embed_dims=CHANNELS, feedforward_channels=CHANNELS, num_fcs=2)
    head = _head(width, classes, queries)
    head |= dict(
        type='MaskFormerHead',
        pixel_decoder=dict(
            type='mmdet.PixelDecoder',
            norm_cfg=dict(type='GN', num_groups=4),
            act_cfg=dict(type='ReLU'),
        ),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=1,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed),
        ),
        loss_mask=dict(type='mmdet.FocalLoss', use_sigmoid=True),
    )
    return _on_backbone(head, width)


def panoptic(width: int = 8, things: int = 2, stuff: int = 1) -> dict:
    """Config of mmdet's own Mask2Former, which knows things and stuff apart."""
    config = mask2former(width, things + stuff)
    head = config.pop('decode_head')
    del head['num_classes']
    train = head.pop('train_cfg')
    classes = dict(num_things_classes=things, num_stuff_classes=stuff)
    preprocessor = dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_mask=True,
        pad_seg=True,
        seg_pad_value=255,
    )
    backbone = dict(config['backbone'], type='ResNet')
    del backbone['contract_dilation']  # which mmdet's has not
    return config | dict(
        type='Mask2Former',
        _scope_='mmdet',
        data_preprocessor=preprocessor,
        backbone=backbone,
        panoptic_head=head | classes,
        panoptic_fusion_head=dict(type='MaskFormerFusionHead', loss_panoptic=None, **classes),
        train_cfg=train,
        test_cfg=dict(panoptic_on=True, semantic_on=False, instance_on=True, max_per_image=5),
    )


def _head(width: int, classes: int, queries: int) -> dict[str, Any]:
    costs = [
        dict(type='mmdet.ClassificationCost'),
        dict(type='mmdet.FocalLossCost', binary_input=True),
        dict(type='mmdet.DiceCost', pred_act=True),
    ]
    return dict(
        in_channels=[width, 2 * width, 4 * width, 8 * width],
        feat_channels=CHANNELS,
        out_channels=CHANNELS,
        num_classes=classes,
        num_queries=queries,
        enforce_decoder_input_project=False,
        positional_encoding=dict(num_feats=CHANNELS // 2, normalize=True),
        loss_cls=dict(
            type='mmdet.CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=2.0,
            class_weight=[1.0] * classes + [0.1],
        ),
        loss_dice=dict(type='mmdet.DiceLoss', use_sigmoid=True, activate=True),
        train_cfg=dict(
            assigner=dict(type='mmdet.HungarianAssigner', match_costs=costs),
            sampler=dict(type='mmdet.MaskPseudoSampler'),
        ),
    )


def _on_backbone(head: dict, width: int) -> dict:
    config = segmentor(width, stride=32, auxiliary=False)
    return config | dict(decode_head=head)
