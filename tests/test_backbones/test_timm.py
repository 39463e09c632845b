"""timm's networks as backbones: maps, what is frozen, and sentences where they cannot be built."""

import sys

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd_dense.backbones import TimmBackbone
from kd_dense.errors import SetupError

pytest.importorskip('timm', reason="timm is not installed: pip install 'kd_dense[pretrained]'")
LITE0 = 'tf_efficientnet_lite0'
STAGES_OF_LITE0 = ['conv_stem bn1 blocks.0', 'blocks.1', 'blocks.2', 'blocks.3 blocks.4']


def part_of(name: str) -> str:
    """The part of lite0 that a name of a weight or module belongs to."""
    words = name.removeprefix('network.').split('.')
    return '.'.join(words[:2]) if words[0] == 'blocks' else words[0]


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
@pytest.mark.parametrize(
    ('name', 'channels'), [(LITE0, (40, 112, 320)), ('tf_efficientnet_lite2', (48, 120, 352))]
)
def test_maps_have_the_channels_and_strides_that_it_tells(scope, name, channels):
    with DefaultScope.overwrite_default_scope(scope):
        backbone = MODELS.build(dict(type='kd_dense.TimmBackbone', model_name=name)).eval()
    assert backbone.feature_info == (channels, (8, 16, 32))
    maps = backbone(torch.zeros(2, 3, 64, 96))
    assert isinstance(maps, tuple)
    assert [m.shape for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(channels, (8, 16, 32), strict=True)
    ]


def test_other_maps():
    backbone = TimmBackbone('resnet18', out_indices=(1, 3))
    assert backbone.feature_info == ((64, 256), (4, 16))
    assert [m.shape[1] for m in backbone(torch.zeros(1, 3, 64, 64))] == [64, 256]


@pytest.mark.parametrize('count', range(5))
def test_first_stages_are_not_trained(count):
    backbone = TimmBackbone(LITE0, frozen_stages=count)
    frozen = set(' '.join(STAGES_OF_LITE0[:count]).split())
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (part_of(name) not in frozen), name
    for mode in (False, True, True):  # also after an evaluation
        backbone.train(mode)
        for name, module in backbone.named_modules():
            if isinstance(module, _BatchNorm):
                assert module.training == (mode and part_of(name) not in frozen), name
    assert backbone.train() is backbone


def test_a_step_leaves_what_is_frozen_and_changes_the_rest():
    torch.manual_seed(0)
    backbone = TimmBackbone(LITE0, frozen_stages=3).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    frozen = set(' '.join(STAGES_OF_LITE0[:3]).split())
    changed = {
        part_of(n) for n, value in backbone.state_dict().items() if not value.equal(before[n])
    }
    assert changed == {part_of(name) for name in before} - frozen


def test_a_flat_network_is_frozen_to_the_end_of_a_stage():
    backbone = TimmBackbone('convnext_atto', (1, 2, 3), frozen_stages=2)  # stages_0, stages_1
    for name, parameter in backbone.named_parameters():
        later = name.startswith(('network.stages_2', 'network.stages_3'))
        assert parameter.requires_grad == later, name


def test_batch_norms_in_evaluation_mode():
    backbone = TimmBackbone(LITE0, norm_eval=True).train()
    norms = [m for m in backbone.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(m.training for m in norms)
    assert all(m.training for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert all(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(model_name='lite0'), r"timm \S+ knows no network 'lite0'; `timm.list_models"),
        (dict(out_indices=(2, 9)), r'cannot return the feature maps \(2, 9\).*out_indices'),
        (dict(out_indices=(3, 2)), r'each map once, in ascending order; found \(3, 2\)'),
        (dict(out_indices=()), 'each map once'),
        (dict(frozen_stages=6), r'has to be 0 \(none\) to 5, found 6'),
        (dict(frozen_stages=-1), r'has to be 0 \(none\) to 5, found -1'),
        (
            dict(model_name='hrnet_w18_small', out_indices=(1, 2), frozen_stages=1),
            'cannot be frozen: stage 1 ends with .*frozen_stages=0',
        ),
    ],
)
def test_what_cannot_be_built_is_a_sentence(options, sentence):
    with pytest.raises(SetupError, match=sentence):
        TimmBackbone(**{'model_name': LITE0, **options})


def test_a_missing_timm_is_a_sentence_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(SetupError, match=r"pip install 'kd_dense\[pretrained\]'") as told:
        TimmBackbone(LITE0)
    assert '\n' not in str(told.value)
