"""Hosts that are built otherwise: taught by what they can show, or refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.views import Batch, FeatureView, OneStageView, view_class
from tests.helpers import pairs, segmentation
from tests.helpers.two_stage import with_masks
from tests.test_recipes import ssd

ON_FEATURES = dict(
    hint=dict(type='kd_dense.FeatureImitation'), pkd=dict(type='kd_dense.PearsonDistillation')
)


def enc_net() -> dict:
    """An EncNet, whose head returns a map and a vector in training."""
    config = segmentation.segmentor(auxiliary=False)
    config['decode_head'] = dict(
        type='EncHead',
        in_channels=[16, 32, 64],
        in_index=(1, 2, 3),
        channels=16,
        num_codes=4,
        use_se_loss=True,
        add_lateral=False,
        dropout_ratio=0.0,
        num_classes=3,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
        loss_se_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.2),
    )
    return config


def segmenter() -> dict:
    """A Segmenter, whose decode head classifies without ``cls_seg``."""
    config = segmentation.segmentor(auxiliary=False)
    config['decode_head'] = dict(
        type='SegmenterMaskTransformerHead',
        in_channels=64,
        channels=16,
        num_classes=3,
        num_layers=1,
        num_heads=2,
        embed_dims=16,
        dropout_ratio=0.0,
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    return config


def cond_inst() -> dict:
    """A CondInst, whose masks are made by kernels of each position."""
    name = 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'
    config = read_model_config(name, 'student').to_dict()
    small = pairs.gfl()
    config['backbone'] = small['backbone']
    config['neck'].update(in_channels=[8, 16, 32, 64], out_channels=64)
    config['bbox_head'].update(num_classes=3, in_channels=64, feat_channels=64, stacked_convs=1)
    features = config['mask_head']['mask_feature_head']
    features.update(in_channels=64, feat_channels=8, num_stacked_convs=1)
    return config


def trained(student: dict, losses: dict, teacher: dict | None = None, raw=None) -> dict:
    """What one step of a distillation logs."""
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='kd_dense.Distiller',
            student=student,
            teacher=dict(config=teacher or student, untrained=True),
            losses=losses,
        )
    )
    model.init_weights()
    optimizer = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    return model.train().train_step(
        raw or segmentation.raw_batch(), build_optim_wrapper(model, optimizer)
    )


def test_a_segmentor_with_several_outputs_learns_from_features():
    logs = trained(enc_net(), ON_FEATURES)
    assert logs['loss_kd_hint'] > 0 and logs['loss_kd_pkd'] > 0 and logs['loss'].isfinite()


def test_and_is_refused_for_losses_on_its_logits_with_what_works():
    with pytest.raises(SetupError, match=r'EncHead returns tuple instead of one map.*`features`'):
        trained(enc_net(), dict(pixel=dict(type='kd_dense.PixelWise')))


def test_a_head_that_does_not_call_the_classifier_is_taught_on_logits():
    logs = trained(segmenter(), dict(pixel=dict(type='kd_dense.PixelWise')))
    assert logs['loss_kd_pixel'] >= 0 and logs['loss'].isfinite()


def test_and_is_refused_for_what_its_classifier_would_read():
    with pytest.raises(SetupError, match=r'does not call mmseg.s `cls_seg`.*on `logits`'):
        trained(segmenter(), dict(pair=dict(type='kd_dense.PairWise', stage='head')))


def test_a_backbone_that_returns_one_map_has_one_level():
    model = build_model(read_model_config(segmentation.segmentor(), 'student')).eval()
    whole = model.extract_feat
    model.extract_feat = lambda images: whole(images)[-1]
    images = torch.zeros(2, 3, 64, 64)
    (features,) = view_class(model)(model, Batch(images, []), torch.no_grad).features
    assert features.shape == (2, 64, 8, 8)


def test_ssd_shows_its_features_and_learns_from_them():
    model = build_model(read_model_config(ssd(), 'student'))
    assert view_class(model) is FeatureView
    logs = trained(ssd(), ON_FEATURES, raw=pairs.raw())
    assert logs['loss_kd_hint'] > 0 and logs['loss_kd_pkd'] > 0
    with pytest.raises(SetupError, match='reads cls_logits, which kd_dense does not know'):
        trained(ssd(), dict(cls=dict(type='kd_dense.SoftTargets')), raw=pairs.raw())


def test_a_detector_with_masks_by_kernels_is_taught_on_features_and_classes():
    assert view_class(build_model(read_model_config(cond_inst(), 'student'))) is OneStageView
    raw = pairs.raw(((64, 64),) * 2, (((10.0, 12.0, 40.0, 50.0),),) * 2)
    with_masks(Batch(torch.zeros(0), raw['data_samples']))
    classes = dict(soft=dict(type='kd_dense.SoftTargets', region='all'))
    logs = trained(cond_inst(), ON_FEATURES | classes, raw=raw)
    assert logs['loss_kd_hint'] > 0 and logs['loss_kd_soft'] > 0 and logs['loss_mask'] > 0
    message = r'(?s)mask_logits, which kd_dense does not know of a CondInst.*losses on features'
    with pytest.raises(SetupError, match=message):
        trained(cond_inst(), dict(mask=dict(type='kd_dense.MaskDistillation')), raw=raw)
