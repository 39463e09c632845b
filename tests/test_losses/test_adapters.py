"""Adapters: one per level, of the shapes that the models' features have."""

import copy

import pytest
import torch
from torch import nn

from kd_dense.errors import SetupError
from kd_dense.losses.adapters import build_adapters, paired_channels
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import OneStageView, level_channels
from tests.helpers.models import gfl
from tests.helpers.pairs import batch_for, build


def without_neck() -> dict:
    """A detector on the backbone's own levels, which have different channels."""
    config = gfl()
    config.update(type='SingleStageDetector', neck=None)
    config['backbone'].update(out_indices=(1, 2, 3))
    return config


def between(student: nn.Module, teacher: nn.Module, **options) -> nn.ModuleList:
    """The adapters of two built models."""
    return build_adapters(paired_channels(student, FrozenTeacher.of(teacher)), **options)


def test_channels_are_those_of_the_features():
    model = build(gfl())
    features = OneStageView(model, batch_for(model), torch.no_grad).features
    assert level_channels(model) == [f.shape[1] for f in features] == [16, 16, 16]
    assert level_channels(build(gfl(channels=32))) == [32, 32, 32]
    assert level_channels(build(without_neck())) == [16, 32, 64]


def test_looking_leaves_the_model_as_it_was():
    model = build(gfl()).train()
    model.backbone.layer1.eval()
    modes = [m.training for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    level_channels(model)
    assert torch.equal(torch.rand(2), expected)
    assert [m.training for m in model.modules()] == modes
    assert not model.backbone.layer1.training and model.backbone.layer2.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_mode_is_restored_after_an_error():
    model = build(gfl()).train()
    model.extract_feat = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        level_channels(model)
    assert model.training and model.backbone.training


def test_each_level_gets_a_convolution_where_the_channels_differ():
    adapters = between(build(without_neck()), build(gfl()))
    assert [type(a) for a in adapters] == [nn.Identity, nn.Conv2d, nn.Conv2d]
    assert [tuple(a.weight.shape) for a in adapters[1:]] == [(16, 32, 1, 1), (16, 64, 1, 1)]


def test_always_means_also_where_the_channels_agree():
    adapters = between(build(gfl()), build(gfl(), 1), always=True)
    assert [tuple(a.weight.shape) for a in adapters] == [(16, 16, 1, 1)] * 3


def test_adapters_bring_features_to_the_teachers_shape():
    student, teacher = build(gfl()), build(gfl(channels=32), 1)
    batch = batch_for(student)
    ours, theirs = (OneStageView(m, batch, torch.no_grad).features for m in (student, teacher))
    adapters = between(student, teacher)
    adapted = [a(f) for a, f in zip(adapters, ours, strict=True)]
    assert [f.shape for f in adapted] == [f.shape for f in theirs]


def test_levels_that_differ_in_number_are_refused():
    more = gfl()
    more['neck']['num_outs'] = 4
    more['bbox_head']['anchor_generator']['strides'] = [8, 16, 32, 64]
    message = (
        r'teacher has 4 feature levels \(channels \[16, 16, 16, 16\]\), the student 3 \(channels '
        r'\[16, 16, 16\]\)\. Give both necks'
    )
    with pytest.raises(SetupError, match=message):
        paired_channels(build(gfl()), FrozenTeacher.of(build(more)))
