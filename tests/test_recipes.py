"""Every recipe on every host family: each pair ends in a fit or in a sentence."""

from __future__ import annotations

import re
from functools import cache

import pytest
from mmengine.config import Config
from torch import nn

from kd_dense import compose
from kd_dense.compose import add_recipes, check_recipe, preferred, read_recipe, recipes, variant
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.views import VIEWS, view_class
from tests.helpers import detr, mask_transformers, models, pairs, segmentation, two_stage


def ssd() -> dict:
    """A small SSD, whose levels have different numbers of anchors."""
    config = pairs.with_head(
        dict(
            type='SSDHead',
            in_channels=[16, 16, 16],
            anchor_generator=dict(
                type='SSDAnchorGenerator',
                scale_major=False,
                min_sizes=[32, 64, 128],
                max_sizes=[64, 128, 256],
                strides=[8, 16, 32],
                ratios=[[2], [2, 3], [2]],
            ),
        ),
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'),
        smoothl1_beta=1.0,
        neg_pos_ratio=3,
    )
    for name in ('feat_channels', 'stacked_convs'):
        config['bbox_head'].pop(name)
    return config


HOSTS = dict(
    gfl=models.gfl,
    atss=pairs.atss,
    retinanet=pairs.retina,
    fcos=pairs.fcos,
    ssd=ssd,
    faster_rcnn=two_stage.faster_rcnn,
    mask_rcnn=two_stage.mask_rcnn,
    cascade_rcnn=two_stage.cascade_rcnn,
    dino=detr.dino,
    htc=two_stage.hybrid_cascade,
    pspnet=segmentation.segmentor,
    mask2former=mask_transformers.mask2former,
)
ON_FEATURES = {'cwd_features', 'hint', 'mgd', 'mgd_two_stage', 'pkd', 'pkd_two_stage'}
ON_BOXES = {'fgd', 'fgd_two_stage'}
ON_ONE_STAGE = {'bckd', 'crosskd', 'dist_one_stage', 'merit_one_stage'}
ON_TWO_STAGE = {'chen2017', 'dist_two_stage', 'dkd', 'merit_two_stage'}
FITTING = dict(
    gfl=ON_FEATURES | ON_BOXES | ON_ONE_STAGE | {'ld'},
    atss=ON_FEATURES | ON_BOXES | ON_ONE_STAGE,
    retinanet=ON_FEATURES | ON_BOXES | ON_ONE_STAGE,
    fcos=ON_FEATURES | ON_BOXES | ON_ONE_STAGE,
    ssd=ON_FEATURES,
    faster_rcnn=ON_FEATURES | ON_BOXES | ON_TWO_STAGE,
    mask_rcnn=ON_FEATURES | ON_BOXES | ON_TWO_STAGE | {'chen2017_masks'},
    cascade_rcnn=ON_FEATURES | ON_BOXES | ON_TWO_STAGE,
    htc=ON_FEATURES,
    dino=ON_FEATURES | {'detr', 'detr_matching'},
    pspnet=ON_FEATURES | {'cwd', 'dist', 'merit', 'mgd_segmentation', 'structured'},
    mask2former=ON_FEATURES | {'cwd', 'dist', 'mgd_segmentation'},
)


@cache
def built(host: str) -> nn.Module:
    return build_model(read_model_config(HOSTS[host](), 'student'))


@pytest.mark.parametrize('recipe', list(recipes()))
@pytest.mark.parametrize('host', HOSTS)
def test_a_recipe_fits_a_host_or_says_why_not(host, recipe):
    try:
        check_recipe(built(host), built(host), read_recipe(recipes()[recipe]).losses)
    except SetupError as error:
        assert recipe not in FITTING[host], error
        assert 'do not fit' in str(error) and re.search(r'losses\.\w+', str(error))
    else:
        assert recipe in FITTING[host]


@pytest.mark.parametrize('teacher', HOSTS)
@pytest.mark.parametrize('student', ['gfl', 'retinanet', 'faster_rcnn', 'cascade_rcnn', 'pspnet'])
def test_pairs_of_two_families_fit_or_say_why_not(student, teacher):
    for path in recipes().values():
        try:
            check_recipe(built(student), built(teacher), read_recipe(path).losses)
        except SetupError as error:
            assert len(str(error)) > 60


def test_every_family_has_a_recipe_that_auto_tries():
    assert {view.family for view in VIEWS.module_dict.values()} == {
        view_class(built(host)).family for host in HOSTS
    }
    for view in VIEWS.module_dict.values():
        tried = [variant(name, view.family) for name in preferred(view.family)]
        assert tried[-1] == 'hint' and len(set(tried)) == len(tried)
    assert preferred('a family of its own') == ['pkd', 'hint']


@pytest.fixture
def forgotten(monkeypatch):
    monkeypatch.setattr(compose, '_folders', list(compose._folders))


def test_recipes_of_ones_own_are_found_by_name_and_by_auto(tmp_path, forgotten):
    (tmp_path / 'mine.py').write_text(
        "recipe = dict(preferred={'one-stage': 0.5})\n"
        "losses = dict(hint=dict(type='kd_dense.FeatureImitation', region='box'))\n"
    )
    add_recipes(tmp_path)
    assert recipes()['mine'] == tmp_path / 'mine.py'
    choice = compose.choose_recipe(built('gfl'), built('gfl'))
    assert (choice.name, choice.refused) == ('mine', {})
    assert compose.choose_recipe(built('pspnet'), built('pspnet')).name == 'cwd'
    losses = Config.fromfile(choice.path).losses
    assert losses.hint.region == 'box'


def test_a_folder_of_recipes_that_is_not_there_is_named(forgotten):
    with pytest.raises(FileNotFoundError, match='no folder of recipes nowhere'):
        add_recipes('nowhere')
