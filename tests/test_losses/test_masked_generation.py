"""MGD: equal to its formula and to the published code, masks of its own, on every host."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from kd_dense import MODELS, MaskedGeneration
from kd_dense.errors import SetupError
from kd_dense.losses import generation_block, masked_generation, random_keep
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import OneStageView
from tests.helpers import segmentation
from tests.helpers.models import gfl, raw_batch
from tests.helpers.pairs import batch_for, build, noted
from tests.helpers.trainings import assert_same, base_config, state
from tests.helpers.two_stage import faster_rcnn
from tests.helpers.waves import set_waves, wave


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(channels: int = 16, **options):
    """Views of a student and a teacher, and the connected loss."""
    student, teacher = build(gfl(), 0), build(gfl(channels=channels), 1)
    batch = batch_for(student)
    loss = MaskedGeneration(**options)
    loss.connect(student, FrozenTeacher.of(teacher))
    return noted(student, batch), OneStageView(teacher, batch, torch.no_grad), loss


# -- mask and block ----------------------------------------------------------------------------


def test_a_mask_hides_the_asked_share_of_positions_in_all_channels():
    keep = random_keep(torch.zeros(4, 3, 100, 100), 0.65, generator())
    assert keep.shape == (4, 1, 100, 100) and keep.dtype == torch.bool
    assert [1 - k.float().mean().item() for k in keep] == pytest.approx([0.65] * 4, abs=0.02)
    assert random_keep(torch.zeros(1, 1, 9, 9), 0.0, generator()).all()


def test_the_block_is_two_convolutions_with_a_relu_between():
    block, x = generation_block(5), wave(2, 5, 4, 6)
    first, _, second = block
    hidden = F.conv2d(x, first.weight, first.bias, padding=1).clamp(min=0)
    torch.testing.assert_close(block(x), F.conv2d(hidden, second.weight, second.bias, padding=1))


# -- the loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize('per_position', [False, True])
def test_the_loss_equals_a_slow_loop_without_padding(per_position):
    student, teacher, loss = pair(channels=24, per_position=per_position, seed=3)
    draws = generator(3 * 1_000_003 * 4096)
    total, count = 0.0, 0
    levels = zip(loss.adapters, loss.generators, student.features, teacher.features, strict=True)
    for (adapter, generate, ours, theirs), stride in zip(levels, student.strides, strict=True):
        keep = torch.rand(2, 1, *ours.shape[-2:], generator=draws) >= 0.65
        made = generate(adapter(ours) * keep)
        for n, (height, width) in enumerate(student.batch.image_sizes()):
            for y in range(0, ours.shape[-2]):
                for x in range(0, ours.shape[-1]):
                    if y * stride < height and x * stride < width:
                        total += (made[n, :, y, x] - theirs[n, :, y, x]).square().sum().item()
                        count += 1
    expected = total / (24 * count) if per_position else total / 2
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_the_value_is_that_of_the_published_code(monkeypatch):
    """Recorded from ``FeatureLoss`` of github.com/yzd-v/MGD on the same numbers, weight 2e-5."""
    student, teacher, loss = pair(channels=24, stages=(0,))
    keep = wave(2, 1, *student.features[0].shape[-2:]) > -0.4
    monkeypatch.setattr(masked_generation, 'random_keep', lambda *_: keep)
    student.features = (wave(*student.features[0].shape), *student.features[1:])
    teacher.features = (wave(2, 24, *keep.shape[-2:], phase=1.0), *teacher.features[1:])
    set_waves(nn.ModuleList([loss.adapters, loss.generators]))
    for sample, size in zip(student.batch.samples, [(128, 160)] * 2, strict=True):
        sample.set_metainfo(dict(img_shape=size))  # no padding: that code knows none
    assert loss(student, teacher).item() * 2e-5 == pytest.approx(PUBLISHED, rel=1e-5)


PUBLISHED = 0.07796186953783035


def test_a_block_that_makes_the_teachers_features_has_no_loss():
    student, teacher, loss = pair(masked=0.0)
    loss.generators = nn.ModuleList(nn.Identity() for _ in range(3))
    teacher.features = tuple(level.detach() for level in student.features)
    assert loss(student, teacher).item() == 0


def test_padding_and_infinities_in_it_count_nowhere():
    student, teacher, loss = pair()
    loss.generators = nn.ModuleList(nn.Identity() for _ in range(3))
    again = copy.deepcopy(loss)
    expected = loss(student, teacher)
    masks = zip(student.features, student.level_masks(), strict=True)
    student.features = tuple(f.masked_fill(~m[:, None], torch.inf) for f, m in masks)
    torch.testing.assert_close(again(student, teacher), expected)


def test_all_that_is_trained_gets_a_gradient_and_the_teacher_none():
    student, teacher, loss = pair(channels=24)
    for level in teacher.features:
        level.requires_grad_()
    loss(student, teacher).backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    assert all(level.grad is None for level in teacher.features)
    assert next(student.model.backbone.parameters()).grad.abs().sum() > 0


def test_masks_differ_from_step_to_step_and_go_on_where_a_checkpoint_was_written():
    student, teacher, loss = pair()
    first = loss(student, teacher)
    resumed = copy.deepcopy(loss)
    resumed.load_state_dict(loss.state_dict())
    before = torch.random.get_rng_state()
    second = loss(student, teacher)
    assert torch.random.get_rng_state().equal(before)  # the student draws what it would draw
    assert not first.equal(second) and resumed(student, teacher).equal(second)
    other = copy.deepcopy(loss)
    other.seed = 7
    assert not other(student, teacher).equal(loss(student, teacher))


def test_half_precision_is_computed_in_float32():
    student, teacher, loss = pair()
    student.features = tuple(f.detach().bfloat16().requires_grad_() for f in student.features)
    teacher.features = tuple(f.bfloat16() for f in teacher.features)
    value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32 and student.features[0].grad.isfinite().all()


def test_per_position_does_not_grow_with_the_resolution():
    values = {}
    for per_position in (False, True):
        for side in (64, 128):
            sizes = ((side, side), (side, side))
            student, teacher = build(gfl(), 0), build(gfl(), 1)
            batch = batch_for(student, sizes, ((), ()))
            ours, theirs = noted(student, batch), OneStageView(teacher, batch, torch.no_grad)
            ours.features = tuple(torch.zeros_like(f) for f in ours.features)
            theirs.features = tuple(torch.ones_like(f) for f in theirs.features)
            loss = MaskedGeneration(stages=(0,), per_position=per_position)
            loss.generators = nn.ModuleList([nn.Identity()])
            values[per_position, side] = loss(ours, theirs).item()
    assert values == {
        (False, 64): 16 * 64,
        (False, 128): 16 * 256,
        (True, 64): 1,
        (True, 128): 1,
    }


@pytest.mark.parametrize(
    ('student', 'teacher', 'options'),
    [
        (gfl(), gfl(channels=32), {}),
        (faster_rcnn(), faster_rcnn(channels=32), dict(masked=0.45)),
        (segmentation.segmentor(), segmentation.segmentor(width=16), dict(stages=(-1, 'head'))),
        (segmentation.segmentor(stride=32), segmentation.segmentor(), dict(stages=(-1,))),
    ],
    ids=['one-stage', 'two-stage', 'segmentor', 'other stride'],
)
def test_it_trains_every_host(student, teacher, options):
    config = dict(
        type='kd_dense.Distiller',
        student=student,
        teacher=dict(config=teacher, untrained=True),
        losses=dict(mgd=dict(type='kd_dense.MaskedGeneration', **options)),
    )
    model = MODELS.build(config)
    model.init_weights()
    raw = segmentation.raw_batch() if 'decode_head' in student else raw_batch((3, 0))
    data = model.train().data_preprocessor(raw, True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = next(model.student.backbone.parameters()).clone()
    for _ in range(2):
        optimizer.zero_grad()
        value = model(**data, mode='loss')['loss_kd_mgd']
        value.backward()
        optimizer.step()
        assert value > 0 and value.isfinite()
    assert all(p.grad.abs().sum() > 0 for p in model.losses['mgd'].parameters())
    assert not next(model.student.backbone.parameters()).equal(before)


def test_a_resumed_training_draws_the_masks_of_one_that_was_not_interrupted(digits_root, tmp_path):
    def train(folder, **changes):
        config = base_config(digits_root, tmp_path / folder)
        config['model']['losses'] = dict(mgd=dict(type='kd_dense.MaskedGeneration', weight=1e-3))
        config['train_cfg']['val_interval'] = 100
        Runner.from_cfg(Config(config | changes)).train()
        return state(tmp_path / folder / 'iter_4.pth')['state_dict']

    whole = train('whole')
    assert whole['losses.mgd.drawn'] == 4
    start = str(tmp_path / 'whole' / 'iter_2.pth')
    assert_same(whole, train('resumed', load_from=start, resume=True), 'state_dict')


def test_blocks_start_anew_with_the_distiller():
    _, _, loss = pair()
    before = loss.generators[0][0].weight.clone()
    torch.manual_seed(5)
    loss.init_weights()
    assert not loss.generators[0][0].weight.equal(before)


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(masked=1.0), r'masked is 1.0; it is the share of positions'),
        (dict(masked=-0.1), 'masked is -0.1'),
        (dict(stages=()), 'stages is empty'),
        (dict(stages=('neck',)), "stage is 'neck'"),
        (dict(adapter='linear'), "adapter is 'linear'"),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        MaskedGeneration(**choice)
