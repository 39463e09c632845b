"""CrossKD: the teacher's last layers on the student's maps, on every one-stage host."""

import copy
import math

import pytest
import torch
from torch import nn

from kd_dense import MODELS, CrossHead
from kd_dense.errors import SetupError
from kd_dense.hosts.heads import knows_towers, run_tower, tower_layers
from kd_dense.pair import unmet
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import OneStageView
from tests.helpers import two_stage
from tests.helpers.models import gfl, raw_batch
from tests.helpers.pairs import HOSTS, atss, batch_for, build, fcos, noted, retina

EACH_HOST = pytest.mark.parametrize('host', HOSTS)
PARTS = ('cls', 'box')
PREDICTORS = dict(
    gfl=('gfl_cls', 'gfl_reg'),
    atss=('atss_cls', 'atss_reg'),
    retina=('retina_cls', 'retina_reg'),
    fcos=('conv_cls', 'conv_reg'),
)


def deep(config: dict, convs: int = 3, width: int = 16) -> dict:
    """A small host with towers of some convolutions."""
    config = copy.deepcopy(config)
    config['bbox_head'].update(stacked_convs=convs, feat_channels=width)
    return config


def pair(host: str = 'gfl', width: int = 16, boxes: tuple | None = None, **options):
    """Views of a student and a teacher, and the connected loss."""
    student = build(deep(HOSTS[host]()), 0)
    teacher = build(deep(HOSTS[host](), width=width), 1).requires_grad_(False)
    loss = CrossHead(**options)
    loss.connect(student, FrozenTeacher.of(teacher))
    batch = batch_for(student) if boxes is None else batch_for(student, boxes=boxes)
    return noted(student, batch), OneStageView(teacher, batch, torch.no_grad), loss


# -- towers ------------------------------------------------------------------------------------


@pytest.mark.parametrize('training', [False, True])
@EACH_HOST
def test_towers_compute_what_the_heads_forward_pass_does(host, training):
    configs = [HOSTS[host]()]
    if host == 'fcos':
        configs.append(fcos() | dict(bbox_head=fcos()['bbox_head'] | dict(norm_on_bbox=True)))
    for config in configs:
        model = build(deep(config)).train(training)
        for scale in getattr(model.bbox_head, 'scales', []):
            scale.scale.data.uniform_(0.5, 1.5)
        features = model.extract_feat(batch_for(model).images)
        expected = model.bbox_head(features)[:2]
        for tower, maps in zip(PARTS, expected, strict=True):
            found = run_tower(model.bbox_head, tower, features)
            assert all(torch.equal(a, b) for a, b in zip(found, maps, strict=True))


def test_heads_with_a_forward_pass_of_their_own_are_not_known():
    head = build(gfl()).bbox_head
    assert knows_towers(head)
    for method in ('forward', 'forward_single'):
        other = type('OtherHead', (type(head),), {method: lambda self, *_: None})
        assert not knows_towers(object.__new__(other))
    assert not knows_towers(build(two_stage.faster_rcnn()).rpn_head)


@pytest.mark.parametrize('layers', [1, 2, 3, 4])
@EACH_HOST
def test_the_students_own_tail_makes_its_own_predictions(host, layers):
    student, _, _ = pair(host)
    for tower, logits in zip(
        PARTS, (student.flat_cls_logits, student.flat_box_logits), strict=True
    ):
        maps = student.tower_maps(tower, layers)
        assert len(maps) == 3
        torch.testing.assert_close(student.tail(tower, maps, layers), logits)


def test_a_half_precision_teachers_tail_computes_in_float32_with_a_gradient():
    _, teacher, _ = pair()
    half = OneStageView(copy.deepcopy(teacher.model).bfloat16(), teacher.batch)
    rounded = OneStageView(copy.deepcopy(half.model).float(), teacher.batch)
    maps = [torch.randn(2, 16, 8, 10, requires_grad=True) for _ in range(3)]
    found = half.tail('cls', maps, 2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rounded.tail('cls', maps, 2))
    found.sum().backward()
    assert all(m.grad.isfinite().all() and m.grad.abs().sum() > 0 for m in maps)


# -- the loss ----------------------------------------------------------------------------------


def through(model: nn.Module, host: str, tower: str, level: int, x: torch.Tensor) -> torch.Tensor:
    """The last convolution and the predicting layer of a head, written out."""
    head = model.bbox_head
    x = (head.cls_convs if tower == 'cls' else head.reg_convs)[-1](x)
    x = getattr(head, PREDICTORS[host][tower == 'box'])(x)
    if tower == 'box' and host != 'retina':
        x = x * head.scales[level].scale
        x = x.exp() if host == 'fcos' else x
    return x


def softplus(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def slow_giou(a: list[float], b: list[float]) -> float:
    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    shared = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    hull = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = area(a) + area(b) - shared
    return shared / union - (hull - union) / hull


def slow_loss(host: str, part: str, student: OneStageView, teacher: OneStageView) -> float:
    head, rows = student.model.bbox_head, []
    for level, features in enumerate(student.features):
        x = features
        for layer in (head.cls_convs if part == 'cls' else head.reg_convs)[:2]:
            x = layer(x)
        x = through(teacher.model, host, part, level, x)
        n, _, h, w = x.shape
        x = x.reshape(n, student.num_anchors, -1, h, w).permute(0, 3, 4, 1, 2)
        rows.append(x.reshape(n, h * w * student.num_anchors, -1))
    crossed = torch.cat(rows, dim=1).detach()
    own = teacher.flat_cls_logits if part == 'cls' else teacher.flat_box_logits
    total = 0.0
    if part == 'cls':
        for n, p in student.valid.nonzero().tolist():
            for x, y in zip(crossed[n, p].tolist(), own[n, p].tolist(), strict=True):
                a, b = (1 / (1 + math.exp(-v)) for v in (x, y))
                total += abs(a - b) * (b * softplus(-x) + (1 - b) * softplus(x))
    elif host == 'gfl':
        for n, p in student.positives.nonzero().tolist():
            for x, y in zip(crossed[n, p].view(4, -1), own[n, p].view(4, -1), strict=True):
                a, b = (x / 3).softmax(0), (y / 3).softmax(0)
                total += 9 * (b * (b / a).log()).sum().item()
    else:
        ours, theirs = teacher.decode(crossed), teacher.decode(own)
        for n, p in student.positives.nonzero().tolist():
            total += 1 - slow_giou(ours[n, p].tolist(), theirs[n, p].tolist())
    return total / int(student.positives.sum())


@pytest.mark.parametrize('part', PARTS)
@EACH_HOST
def test_the_loss_equals_a_slow_loop(host, part):
    student, teacher, loss = pair(host, part=part, temperature=3.0)
    value = loss(student, teacher).item()
    assert value > 0.05
    assert value == pytest.approx(slow_loss(host, part, student, teacher), rel=1e-3)


@pytest.mark.parametrize('layers', [1, 2, 4])
@pytest.mark.parametrize('part', PARTS)
@EACH_HOST
def test_a_student_that_is_the_teacher_has_no_loss(host, part, layers):
    student, _, loss = pair(host, part=part, layers=layers)
    same = OneStageView(student.model, student.batch, torch.no_grad)
    assert abs(loss(student, same).item()) < 1e-5


@pytest.mark.parametrize('part', PARTS)
@EACH_HOST
def test_the_gradient_ends_before_the_students_last_layers_and_spares_the_teacher(host, part):
    student, teacher, loss = pair(host, part=part)
    loss(student, teacher).backward()
    for tower in PARTS:
        layers = tower_layers(student.model.bbox_head, tower)
        got = [any(p.grad is not None for p in layer.parameters()) for layer in layers]
        assert got == [part == tower] * 2 + [False] * 2
    assert next(student.model.backbone.parameters()).grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.model.parameters())


@pytest.mark.parametrize('part', PARTS)
def test_towers_of_other_widths_get_a_convolution_that_learns(part):
    student, teacher, loss = pair(width=24, part=part)
    (adapter,) = loss.adapters
    assert (adapter.in_channels, adapter.out_channels, adapter.kernel_size) == (16, 24, (1, 1))
    loss(student, teacher).backward()
    assert all(p.grad.abs().sum() > 0 for p in adapter.parameters())
    before = adapter.weight.clone()
    loss.init_weights()
    assert not adapter.weight.equal(before)
    _, _, equal = pair(part=part)
    assert isinstance(equal.adapters[0], nn.Identity)


def test_towers_of_other_depths_meet_at_the_same_distance_from_the_end():
    student, teacher = build(deep(gfl(), 1), 0), build(deep(gfl(), 4), 1)
    batch = batch_for(student)
    ours, theirs = noted(student, batch), OneStageView(teacher, batch, torch.no_grad)
    loss = CrossHead(layers=2)
    loss.connect(student, FrozenTeacher.of(teacher))
    assert all(a is b for a, b in zip(ours.tower_maps('cls', 2), ours.features, strict=True))
    assert loss(ours, theirs) > 0
    with pytest.raises(SetupError, match='the cls tower of this GFLHead has 1 to 2'):
        CrossHead(layers=3).connect(student, FrozenTeacher.of(teacher))
    with pytest.raises(SetupError, match='layers is 0; the box tower'):
        CrossHead(part='box', layers=0).connect(student, FrozenTeacher.of(teacher))


@pytest.mark.parametrize('part', PARTS)
@EACH_HOST
def test_images_without_objects_are_finite_with_gradients(host, part):
    student, teacher, loss = pair(host, part=part, boxes=((), ()))
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite() and (value > 0) == (part == 'cls')
    gradient = next(student.model.backbone.parameters()).grad
    assert gradient.isfinite().all()


@pytest.mark.parametrize('part', PARTS)
def test_padding_and_ignored_boxes_count_nowhere(part):
    student, teacher, loss = pair(part=part)
    expected = loss(student, teacher)
    outside = ~student.eligible[..., None]
    assert outside.any()
    for name in ('flat_cls_logits', 'flat_box_logits'):
        setattr(teacher, name, getattr(teacher, name).masked_fill(outside, 50.0))
    torch.testing.assert_close(loss(student, teacher), expected)


@pytest.mark.parametrize('part', PARTS)
def test_half_precision_maps_are_compared_in_float32(part):
    student, teacher, loss = pair(part=part)
    expected = loss(student, teacher)
    for maps in student._tower_maps.values():
        maps[:] = [m.bfloat16() for m in maps]
    value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0.1, atol=1e-2)


@pytest.mark.parametrize(
    ('choice', 'message'),
    [(dict(part='rpn'), "choose one of 'cls', 'box'"), (dict(temperature=0), 'temperature is 0')],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        CrossHead(**choice)


def test_heads_that_do_not_fit_are_refused_with_a_reason():
    softmax = build(retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)))
    assert 'scores them by softmax' in unmet(softmax, 'cls', CrossHead())[0]
    assert unmet(softmax, 'box', CrossHead(part='box')) == []
    student = build(atss())
    head = student.bbox_head
    head.__class__ = type('OwnHead', (type(head),), dict(forward=lambda self, x: None))
    assert 'needs the layers of the head' in unmet(student, 'cls', CrossHead())[0]
    with pytest.raises(SetupError, match=r'layers of the head of the teacher, .* found OwnHead'):
        CrossHead().connect(build(atss()), FrozenTeacher.of(student))


# -- in training -------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@EACH_HOST
def test_two_steps_of_training(host, dtype):
    config = dict(
        type='kd_dense.Distiller',
        student=deep(HOSTS[host](), 2),
        teacher=dict(config=deep(HOSTS[host](), 2, width=32), untrained=True, dtype=dtype),
        losses={p: dict(type='kd_dense.CrossHead', part=p) for p in PARTS},
    )
    model = MODELS.build(config)
    model.init_weights()
    for part in (model.student, model.teacher.model):
        for name, parameter in part.named_parameters():
            if 'head' in name and parameter.dim() > 1:
                parameter.data.normal_(std=0.1)
    teacher = copy.deepcopy(model.teacher.model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for num_boxes in ((3, 2), (2, 0)):
        data = model.train().data_preprocessor(raw_batch(num_boxes), True)
        optimizer.zero_grad()
        logs = model(**data, mode='loss')
        total, _ = model.parse_losses(logs)
        total.backward()
        optimizer.step()
        assert all(logs[f'loss_kd_{p}'].isfinite() and logs[f'loss_kd_{p}'] > 0 for p in PARTS)
    for loss in model.losses.values():
        assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    after = model.teacher.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in teacher.items())


def test_notes_on_the_towers_are_removed_afterwards():
    student, _, _ = pair()
    layers = [layer for tower in PARTS for layer in tower_layers(student.model.bbox_head, tower)]
    assert not any(layer._forward_hooks for layer in layers)
