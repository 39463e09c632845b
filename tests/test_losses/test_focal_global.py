"""FGD: equal to its formula and to the published code, on detectors."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ContextBlock
from torch import nn

from kd_dense import MODELS, FocalGlobal
from kd_dense.errors import SetupError
from kd_dense.losses import attention_maps, foreground_weights, with_context
from kd_dense.pair import unmet
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import OneStageView
from tests.helpers import segmentation
from tests.helpers.models import gfl, raw_batch
from tests.helpers.pairs import HOSTS, SIZES, batch_for, build, noted
from tests.helpers.two_stage import faster_rcnn, hybrid_cascade
from tests.helpers.waves import set_waves, wave

EVERYWHERE = torch.ones(2, 4, 5, dtype=torch.bool)
ONLY = dict(foreground=0.0, background=0.0, attention=0.0, relation=0.0)
# of FeatureLoss of github.com/yzd-v/FGD: its value, and the sum of its gradient's sizes
PUBLISHED = (0.0538460835814476, 0.07672546058893204)


def some() -> torch.Tensor:
    mask = EVERYWHERE.clone()
    mask[0, 3], mask[1, :, 2:] = False, False
    return mask


def pair(channels: int = 16, sizes: tuple = SIZES, boxes: tuple | None = None, **options):
    """Views of a student and a teacher, and the connected loss."""
    student, teacher = build(gfl(), 0), build(gfl(channels=channels), 1)
    given = {} if boxes is None else dict(boxes=boxes)
    batch = batch_for(student, sizes, **given)
    loss = FocalGlobal(**options)
    loss.connect(student, FrozenTeacher.of(teacher))
    for index, block in enumerate(loss.contexts):
        set_waves(block)
        block['teacher'].channel_add_conv[-1].bias.data.add_(index)  # both sides differ
    return noted(student, batch), OneStageView(teacher, batch, torch.no_grad), loss


# -- attention ---------------------------------------------------------------------------------


def test_attention_equals_a_slow_loop_without_what_is_not_valid():
    x, valid = wave(2, 3, 4, 5), some()
    spatial, channels = attention_maps(x, valid, 0.5)
    for n in range(2):
        places = valid[n].nonzero().tolist()
        sizes = [x[n, :, i, j].abs().mean().item() for i, j in places]
        exps = [math.exp(s / 0.5) for s in sizes]
        for (i, j), e in zip(places, exps, strict=True):
            assert spatial[n, i, j].item() == pytest.approx(len(places) * e / sum(exps), rel=1e-4)
        assert not spatial[n][~valid[n]].any()
        means = [sum(abs(x[n, c, i, j].item()) for i, j in places) / len(places) for c in range(3)]
        exps = [math.exp(m / 0.5) for m in means]
        expected = [3 * e / sum(exps) for e in exps]
        assert channels[n].tolist() == pytest.approx(expected, rel=1e-4)


def test_attention_is_one_on_average_and_everywhere_for_a_flat_map():
    spatial, channels = attention_maps(wave(2, 3, 4, 5), EVERYWHERE, 0.5)
    assert spatial.mean().item() == pytest.approx(1) and channels.mean().item() == pytest.approx(1)
    for each in attention_maps(torch.full((2, 3, 4, 5), -2.0), EVERYWHERE, 0.1):
        torch.testing.assert_close(each, torch.ones_like(each))


def test_an_image_without_a_valid_position_stays_finite():
    x = wave(1, 3, 4, 5).requires_grad_()
    spatial, channels = attention_maps(x, EVERYWHERE[:1] & False, 0.5)
    (spatial.sum() + channels.square().sum()).backward()
    assert not spatial.any() and channels.isfinite().all() and x.grad.isfinite().all()


# -- boxes -------------------------------------------------------------------------------------


def test_a_box_shares_out_one_among_the_positions_that_it_touches():
    boxes = torch.tensor([[8.0, 0.0, 24.0, 17.0]])  # columns 1 and 2, rows 0 to 2
    found = foreground_weights(boxes, (4, 5), (1 / 8, 1 / 8))
    expected = torch.zeros(4, 5)
    expected[0:3, 1:3] = 1 / 6
    torch.testing.assert_close(found, expected)


def test_the_smallest_box_counts_and_none_is_too_small():
    boxes = torch.tensor([[0.0, 0.0, 40.0, 32.0], [17.0, 9.0, 18.0, 10.0], [24.0, 8.0, 24.0, 8.0]])
    found = foreground_weights(boxes, (4, 5), (1 / 8, 1 / 8))
    expected = torch.full((4, 5), 1 / 20)
    expected[1, 2] = expected[1, 3] = 1
    torch.testing.assert_close(found, expected)
    assert not foreground_weights(boxes[:0], (4, 5), (1 / 8, 1 / 8)).any()


def test_the_published_box_has_one_more_row_and_column():
    found = foreground_weights(torch.tensor([[8.0, 0.0, 24.0, 17.0]]), (4, 5), (1 / 8,) * 2, 1)
    expected = torch.zeros(4, 5)
    expected[0:4, 1:4] = 1 / 12
    torch.testing.assert_close(found, expected)


# -- context -----------------------------------------------------------------------------------


def test_context_is_that_of_a_gcnet_block_where_everything_is_valid():
    block, x = ContextBlock(6, ratio=0.5), wave(2, 6, 4, 5)
    set_waves(block)
    torch.testing.assert_close(with_context(block, x, EVERYWHERE), block(x))
    part = with_context(block, x[:, :, :, :3], EVERYWHERE[:, :, :3])
    valid = EVERYWHERE.clone()
    valid[:, :, 3:] = False
    torch.testing.assert_close(with_context(block, x, valid)[..., :3], part)


# -- the loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize('term', list(ONLY))
def test_each_term_equals_a_slow_loop(term):
    student, teacher, loss = pair(channels=24, **{**ONLY, term: 2.0})
    expected, masks = 0.0, student.level_masks()
    for level, ours in enumerate(student.features):
        valid, stride = masks[level], student.strides[level]
        s, t = loss.adapters[level](ours).detach(), teacher.features[level]
        s, t = (x * valid[:, None] for x in (s, t))
        maps, channels = attention_maps(t, valid, 0.5)
        maps_s, channels_s = attention_maps(s, valid, 0.5)
        blocks = loss.contexts[level]
        both = zip((s, t), ('student', 'teacher'), strict=True)
        context = [with_context(blocks[side], x, valid).detach() for x, side in both]
        if term == 'attention':
            expected += (maps - maps_s).abs().sum() + (channels - channels_s).abs().sum()
        if term == 'relation':
            difference = (context[0] - context[1]).square().sum(dim=1)
            expected += difference[valid].sum()
        if term not in ('foreground', 'background'):
            continue
        for n in range(2):
            shape = valid[n].shape
            weights = foreground_weights(student.boxes[n], shape, (1 / stride,) * 2)
            places = valid[n].nonzero().tolist()
            outside = [(i, j) for i, j in places if weights[i, j] == 0]
            for i, j in places if term == 'foreground' else outside:
                weight = weights[i, j] if term == 'foreground' else 1 / len(outside)
                error = (channels[n] * (s[n, :, i, j] - t[n, :, i, j]).square()).sum()
                expected += weight * maps[n, i, j] * error
    value = loss(student, teacher).item()
    assert value > 0 and value == pytest.approx(2 * float(expected) / 2, rel=1e-3)


def test_the_terms_add_up():
    student, teacher, loss = pair()
    parts = []
    for term, weight in loss.terms.items():
        alone = copy.deepcopy(loss)
        alone.terms = ONLY | {term: weight}
        parts.append(alone(student, teacher))
    torch.testing.assert_close(loss(student, teacher), torch.stack(parts).sum())


def test_the_value_and_gradient_are_those_of_the_published_code():
    student, teacher, loss = pair(channels=24, sizes=((128, 160),) * 2, variant='reference')
    own = wave(*student.features[0].shape).requires_grad_()
    set_waves(nn.ModuleList([loss.adapters[0], *loss.contexts[0].values()]))
    nothing = [f.detach() * 0 for f in student.features[1:]]
    student.features = (own, *nothing)
    teacher.features = (wave(2, 24, 16, 20, phase=1.0), *(f * 0 for f in teacher.features[1:]))
    for adapter, contexts in zip(loss.adapters[1:], loss.contexts[1:], strict=True):
        for parameter in (*adapter.parameters(), *contexts.parameters()):
            parameter.data.zero_()  # the other levels count nothing
    value = loss(student, teacher)
    value.backward()
    found = value.item(), own.grad.abs().sum().item()
    assert found == pytest.approx(PUBLISHED, rel=1e-5)


def test_a_student_with_the_teachers_features_and_context_has_no_loss():
    student, teacher, loss = pair()
    teacher.features = tuple(f.detach() for f in student.features)
    for contexts in loss.contexts:
        contexts['teacher'].load_state_dict(contexts['student'].state_dict())
    assert loss(student, teacher).item() == 0


def test_padding_and_infinities_in_it_count_nowhere():
    student, teacher, loss = pair()
    expected = loss(student, teacher)
    masks = [mask[:, None] for mask in student.level_masks()]
    student.features = tuple(
        f.masked_fill(~m, torch.inf) for f, m in zip(student.features, masks, strict=True)
    )
    teacher.features = tuple(
        f.masked_fill(~m, -9.0) for f, m in zip(teacher.features, masks, strict=True)
    )
    torch.testing.assert_close(loss(student, teacher), expected)


@pytest.mark.parametrize('boxes', [((), ()), (((0.0, 0.0, 160.0, 128.0),),) * 2])
def test_images_of_nothing_but_background_or_one_object_are_finite(boxes):
    student, teacher, loss = pair(boxes=boxes)
    value = loss(student, teacher)
    value.backward()
    gradient = next(student.model.backbone.parameters()).grad
    assert value > 0 and value.isfinite() and gradient.isfinite().all()


def test_all_that_is_trained_gets_a_gradient_and_the_teacher_none():
    student, teacher, loss = pair(channels=24)
    for level in teacher.features:
        level.requires_grad_()
    loss(student, teacher).backward()
    # a softmax over positions does not mind the bias of its scores
    minded = [p for name, p in loss.named_parameters() if not name.endswith('conv_mask.bias')]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in minded)
    assert all(level.grad is None for level in teacher.features)
    assert next(student.model.backbone.parameters()).grad.abs().sum() > 0


def test_half_precision_is_computed_in_float32():
    student, teacher, loss = pair()
    student.features = tuple(f.detach().bfloat16().requires_grad_() for f in student.features)
    teacher.features = tuple(f.bfloat16() for f in teacher.features)
    value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32 and student.features[0].grad.isfinite().all()


def test_context_starts_without_an_effect():
    _, _, loss = pair()
    torch.manual_seed(5)
    loss.init_weights()
    x = wave(2, 16, 4, 5)
    for contexts in loss.contexts:
        assert all(
            torch.equal(with_context(block, x, EVERYWHERE), x) for block in contexts.values()
        )
        assert not F.conv2d(x, contexts['student'].conv_mask.weight).eq(0).any()


@pytest.mark.parametrize(
    'config', [*(make() for make in HOSTS.values()), faster_rcnn()], ids=[*HOSTS, 'faster_rcnn']
)
def test_two_steps_of_training(config):
    wide = copy.deepcopy(config)
    wide['neck']['out_channels'] = 32
    for head in ('bbox_head', 'rpn_head'):
        if head in wide:
            wide[head]['in_channels'] = 32
    if 'roi_head' in wide:
        wide = faster_rcnn(channels=32)
    distiller = dict(
        type='kd_dense.Distiller',
        student=config,
        teacher=dict(config=wide, untrained=True),
        losses=dict(fgd=dict(type='kd_dense.FocalGlobal')),
    )
    model = MODELS.build(distiller)
    model.init_weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for num_boxes in ((3, 2), (2, 0)):
        data = model.train().data_preprocessor(raw_batch(num_boxes), True)
        optimizer.zero_grad()
        value = model(**data, mode='loss')['loss_kd_fgd']
        value.backward()
        optimizer.step()
        assert value > 0 and value.isfinite()
    grown = [p.grad.abs().sum() > 0 for p in model.losses['fgd'].adapters.parameters()]
    assert grown and all(grown)


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(relation=-1.0), r'relation is -1\.0; it must be a finite number'),
        (dict(foreground=math.nan), 'foreground is nan'),
        (dict(temperature=0), 'temperature is 0'),
        (dict(variant='mine'), "choose one of 'paper', 'reference'"),
        (dict(adapter='linear'), "adapter is 'linear'"),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        FocalGlobal(**choice)


def test_hosts_without_known_boxes_are_refused():
    assert unmet(build(gfl()), 'fgd', FocalGlobal()) == []
    for config in (hybrid_cascade(), segmentation.segmentor()):
        assert (
            'needs a detector whose boxes are known' in unmet(build(config), 'f', FocalGlobal())[0]
        )
