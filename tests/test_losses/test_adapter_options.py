"""Adapters: their options, and levels of other sizes brought together."""

import pytest
import torch
from torch import nn

from kd_dense import FeatureImitation
from kd_dense.errors import SetupError
from kd_dense.losses import masked_absolute_error
from kd_dense.losses.adapters import adapter_layer, adapter_options, align
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import OneStageView
from tests.helpers.models import gfl
from tests.helpers.pairs import batch_for, build, check_models, noted, pair


def finer(channels: int = 16) -> dict:
    """A GFL whose levels have half the strides."""
    config = gfl(channels)
    config['bbox_head']['anchor_generator']['strides'] = [4, 8, 16]
    config['neck'].update(start_level=0, end_level=2)
    return config


@pytest.mark.parametrize(
    ('adapter', 'kinds'),
    [
        ('conv1x1', ['Conv2d']),
        ('conv3x3', ['Conv2d']),
        (dict(kernel=3, relu=True), ['Conv2d', 'ReLU']),
        (dict(norm=True), ['Conv2d', 'BatchNorm2d']),
        (dict(kernel=3, norm=True, relu=True), ['Conv2d', 'BatchNorm2d', 'ReLU']),
    ],
)
def test_layers_are_what_was_asked_for_and_keep_the_size(adapter, kinds):
    options = adapter_options(adapter)
    layer = adapter_layer(3, 5, **options)
    layers = list(layer) if isinstance(layer, nn.Sequential) else [layer]
    assert [type(each).__name__ for each in layers] == kinds
    assert layers[0].kernel_size == (options['kernel'],) * 2
    assert (layers[0].bias is None) == options['norm']
    assert layer(torch.rand(2, 3, 6, 7)).shape == (2, 5, 6, 7)


def test_channels_that_agree_get_a_layer_where_one_is_asked_for():
    model, same = build(gfl()), build(gfl(), 1)
    for adapter, expected in (('auto', nn.Identity), ('conv3x3', nn.Conv2d), ({}, nn.Conv2d)):
        loss = FeatureImitation(adapter=adapter)
        loss.connect(model, FrozenTeacher.of(same))
        assert [type(a) for a in loss.adapters] == [expected] * 3


@pytest.mark.parametrize(
    ('adapter', 'message'),
    [
        ('linear', r"adapter is 'linear'; choose one of .*or a dict such as dict\(kernel=3"),
        (dict(kernel=5), r"adapter is \{'kernel': 5\}.*the kernel is 1 or 3"),
        (dict(bias=True), 'its keys are kernel, relu, norm'),
    ],
)
def test_unknown_options_are_refused_when_building(adapter, message):
    with pytest.raises(SetupError, match=message):
        FeatureImitation(adapter=adapter)


def test_initialising_starts_norms_anew_too():
    loss = FeatureImitation(adapter=dict(norm=True))
    loss.connect(build(gfl()), FrozenTeacher.of(build(gfl(), 1)))
    with torch.no_grad():
        for value in (*loss.parameters(), *loss.buffers()):
            value.zero_()
    loss.init_weights()
    assert all(a[0].weight.std() > 0.01 and (a[1].weight == 1).all() for a in loss.adapters)
    assert all((a[1].running_var == 1).all() for a in loss.adapters)


# -- the absolute error ------------------------------------------------------------------------


def test_the_absolute_error_equals_a_slow_loop():
    student, teacher = pair()
    s, t = student.features[0].detach(), teacher.features[0]
    mask = torch.rand(s[:, 0].shape, generator=torch.Generator().manual_seed(0)) > 0.5
    total, count = masked_absolute_error(s, t, mask)
    slow = sum(float((s[n, :, h, w] - t[n, :, h, w]).abs().sum()) for n, h, w in mask.nonzero())
    assert total.item() == pytest.approx(slow, rel=1e-4) and count == mask.sum()


def test_the_loss_takes_the_absolute_error_where_asked():
    student, teacher = pair()
    value = FeatureImitation(adapter='none', criterion='l1')(student, teacher).item()
    total = positions = 0
    for s, t, m in zip(
        student.features, teacher.features, student.positions(student.valid), strict=True
    ):
        total += float((s - t).detach().abs().sum(1)[m].sum())
        positions += int(m.sum())
    assert value == pytest.approx(total / positions / 16, rel=1e-4)
    with pytest.raises(SetupError, match="criterion is 'l3'; choose one of 'l2', 'l1'"):
        FeatureImitation(criterion='l3')


# -- other sizes -------------------------------------------------------------------------------


def test_maps_of_one_size_are_left_untouched():
    features, mask = torch.rand(2, 3, 4, 5), torch.rand(2, 4, 5) > 0.5
    found = align(features, mask, (4, 5))
    assert found[0] is features and found[1] is mask


def test_a_ramp_is_interpolated_between_the_centres_of_positions():
    ramp = torch.arange(4.0)[None, None, None].expand(1, 1, 2, 4)
    mask = torch.tensor([[[True, False, False, True], [False] * 4]])
    features, finer_mask = align(ramp, mask, (4, 8))
    assert features[0, 0, 1].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    wanted = mask.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    assert torch.equal(finer_mask, wanted)
    _, coarser = align(ramp, mask, (1, 2))
    assert coarser.shape == (1, 1, 2)


def test_levels_of_other_strides_are_compared_at_the_teachers_size():
    model, other = build(gfl(), 0), build(finer(), 1)
    student = noted(model, batch_for(model))
    teacher = OneStageView(other, student.batch, torch.no_grad)
    loss = FeatureImitation(adapter='none', align='interpolate')
    found = loss(student, teacher)
    total = positions = 0
    for level in range(3):
        t = teacher.features[level]
        s = nn.functional.interpolate(student.features[level], t.shape[-2:], mode='bilinear')
        inside = student.batch.inside(t.shape[-2:], (4, 8, 16)[level])
        inside &= student.batch.inside(
            student.level_sizes[level], (8, 16, 32)[level]
        ).repeat_interleave(2, 1).repeat_interleave(2, 2)  # fmt: skip
        total += float((s - t).detach().square().sum(1)[inside].sum())
        positions += int(inside.sum())
    assert positions < sum(f[:, 0].numel() for f in teacher.features)
    assert found.item() == pytest.approx(total / positions / 16, rel=1e-4)
    for features in teacher.features:  # the second image is smaller: spoil its padding
        features[1, :, -(-90 * features.shape[2] // 128) :] = 1e6
    assert torch.equal(loss(student, teacher), found)
    found.backward()
    assert model.neck.fpn_convs[0].conv.weight.grad.abs().sum() > 0


def test_other_strides_fit_where_levels_are_aligned():
    student, teacher = build(gfl()), build(finer(), 1)
    check_models(student, teacher, dict(hint=FeatureImitation(align='interpolate')))
    with pytest.raises(SetupError, match=r'strides of the feature levels.*losses\.hint'):
        check_models(student, teacher, dict(hint=FeatureImitation()))
    more = gfl()
    more['neck']['num_outs'] = 4
    more['bbox_head']['anchor_generator']['strides'] = [8, 16, 32, 64]
    with pytest.raises(SetupError, match='number of feature levels: the teacher has 4, the stude'):
        check_models(student, build(more), dict(hint=FeatureImitation(align='interpolate')))
