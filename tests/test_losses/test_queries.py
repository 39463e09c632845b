"""Losses on queries: shared ones, matched ones, on every detection transformer."""

import copy
import math

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment

from kd_dense import MODELS, QueryMatching, SharedQueries
from kd_dense.compose import choose_recipe
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.hosts.rng import numbered_rng
from kd_dense.losses import base, class_divergence, matched
from kd_dense.unlabelled import MARK
from kd_dense.views import Batch, Detections, DetrView
from tests.helpers import pairs
from tests.helpers.detr import (
    BOXES,
    HOSTS,
    SIZES,
    batch_for,
    build,
    ddq,
    deformable,
    detr,
    dino,
    noted,
    pair,
)
from tests.helpers.models import gfl
from tests.test_losses.test_cross_head import slow_giou

EACH_HOST = pytest.mark.parametrize('host', HOSTS)
KINDS = dict(shared=SharedQueries, matching=QueryMatching)
LOSSES = dict(
    shared=dict(type='kd_dense.SharedQueries', top=8),
    matching=dict(type='kd_dense.QueryMatching', threshold=0.0),
    memory=dict(type='kd_dense.PearsonDistillation', stage='memory'),
    mgd=dict(type='kd_dense.MaskedGeneration', stages=('memory',)),
)


def distiller(student: dict, teacher: dict, losses: dict, **more: object):
    torch.manual_seed(0)
    teachers = dict(config=teacher, untrained=True)
    config = dict(type='kd_dense.Distiller', student=student, teacher=teachers, losses=losses)
    model = MODELS.build(copy.deepcopy(config | more))
    model.init_weights()
    return model.train()


def optimizer(model, lr: float = 1e-3):
    return build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=lr)))


def unlabelled() -> dict:
    data = pairs.raw(SIZES)
    for sample in data['data_samples']:
        sample.set_metainfo({MARK: False})
        del sample.gt_instances
    return data


# -- on every host -----------------------------------------------------------------------------


@EACH_HOST
def test_two_steps_with_another_number_of_queries_and_a_step_without_labels(host):
    model = distiller(HOSTS[host](), HOSTS[host](queries=14), LOSSES, unlabelled_weight=1.0)
    wrapper = optimizer(model)
    before, own = (copy.deepcopy(m.state_dict()) for m in (model.teacher.model, model.student))
    for boxes in (BOXES, ((), ())):  # of the second batch no image has an object
        logs = model.train_step(pairs.raw(SIZES, boxes), wrapper)
        values = {name: float(logs[f'loss_kd_{name}']) for name in LOSSES}
        assert logs['loss'].isfinite() and all(value > 0 for value in values.values()), values
    logs = model.train_step(unlabelled(), wrapper)
    assert all(logs[f'loss_kd_{name}_unlabelled'] > 0 for name in LOSSES)
    for name, value in model.teacher.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in model.teacher.model.parameters())
    moved = {
        n.split('.')[0]
        for n, v in model.student.state_dict().items()
        if n in own and not v.equal(own[n])
    }
    assert moved >= {'backbone', 'neck', 'encoder', 'decoder', 'bbox_head'}


@EACH_HOST
def test_a_student_that_is_its_teacher_answers_the_same(host):
    model = build(HOSTS[host](dropout=0.0))
    batch = batch_for(model)
    student, teacher = noted(model, batch), DetrView(model, batch, torch.no_grad)
    model.eval()
    _ = teacher.query_logits
    model.train()
    assert float(SharedQueries(giou=0)(student, teacher).detach()) < 1e-4
    assert float(QueryMatching(threshold=0)(student, teacher).detach()) > 1e-3  # of inner layers


@pytest.mark.parametrize('host', ['detr', 'dino'])
def test_a_pass_of_the_students_decoder_leaves_its_own_random_numbers_alone(host):
    torch.manual_seed(0)
    plain = build_model(read_model_config(HOSTS[host](), 'student'))
    plain.init_weights()
    model = distiller(HOSTS[host](), HOSTS[host](), {n: LOSSES[n] for n in KINDS})
    own, ours = [], []
    for each, found in ((plain, own), (model, ours)):
        torch.manual_seed(5)
        np.random.seed(5)
        wrapper = optimizer(each, lr=0)  # dropout and denoising draw anew in each step
        each.train()
        for _ in range(2):
            found.append(each.train_step(pairs.raw(SIZES), wrapper))
    for expected, logs in zip(own, ours, strict=True):
        assert logs['loss_kd_shared'] > 0
        own_parts = {n: v for n, v in expected.items() if n != 'loss'}
        assert own_parts and all(torch.equal(logs[n], v) for n, v in own_parts.items())
    drawn = [float(logs['loss_kd_shared']) for logs in ours]
    assert drawn[0] != drawn[1] and model.losses['shared'].drawn == 2


@pytest.mark.parametrize('name', KINDS)
def test_two_ranks_of_an_image_are_one_of_two(name, monkeypatch):
    student, teacher = build(dino(dropout=0.0)), build(dino(dropout=0.0), 1)
    loss = KINDS[name](**({} if name == 'shared' else dict(threshold=0)))
    whole = batch_for(student)

    def value(images: slice) -> torch.Tensor:
        batch = Batch(whole.images[images], whole.samples[images])
        return loss(noted(student, batch), DetrView(teacher, batch, torch.no_grad)).detach()

    counts = []
    monkeypatch.setattr(base.dist, 'is_distributed', lambda: True)
    monkeypatch.setattr(base.dist, 'all_reduce', lambda total: counts.append(float(total)))
    alone = value(slice(0, 2))
    ranks = slice(0, 1), slice(1, 2)
    counts.clear()
    for rank in ranks:
        value(rank)
    summed = sum(counts)
    monkeypatch.setattr(base.dist, 'all_reduce', lambda total: total.fill_(summed))
    monkeypatch.setattr(base.dist, 'get_world_size', lambda: 2)
    torch.testing.assert_close(sum(map(value, ranks)) / 2, alone, rtol=1e-4, atol=1e-6)


# -- the formula -------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_classes(logits: list[float], scores: list[float], softmax: bool) -> float:
    """KL of one query, of the teacher's probabilities; the background's is the last of softmax."""
    if softmax:
        scale = sum(map(math.exp, logits))
        shares = [math.exp(x) / scale for x in logits]
        return sum(p * math.log(p / q) for p, q in zip(scores, shares, strict=True) if p > 0)
    total = 0.0
    for x, p in zip(logits, scores, strict=True):
        q = sigmoid(x)
        total += p * math.log(p / q) if p > 0 else 0
        total += (1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0
    return total


def slow_difference(logits, box, scores, wanted, softmax: bool) -> float:
    distance = sum(abs(a - b) for a, b in zip(box, wanted, strict=True))
    corners = [bbox_cxcywh_to_xyxy(torch.tensor(each)).tolist() for each in (box, wanted)]
    classes = slow_classes(logits, scores, softmax)
    return classes + 5 * distance + 2 * (1 - slow_giou(*corners))


def probabilities(logits: torch.Tensor, softmax: bool) -> torch.Tensor:
    return logits.softmax(-1) if softmax else logits.sigmoid()


@pytest.mark.parametrize('host', [detr, dino])
@pytest.mark.parametrize('top', [None, 4])
def test_shared_queries_are_the_formula(host, top):
    student, teacher = pair(host(), host(queries=6))
    softmax = host is detr
    queries, shown = teacher.queries, probabilities(teacher.query_logits, softmax)
    foreground = shown[..., :-1] if softmax else shown
    best = foreground[-1].amax(-1)  # (N, Q)
    chosen = [sorted(range(6), key=lambda q: -best[n, q])[: top or 6] for n in range(2)]
    asked = {
        name: torch.stack([each[n, chosen[n]] for n in range(2)]) for name, each in queries.items()
    }
    order = asked if top else queries
    chosen = chosen if top else [list(range(6))] * 2
    with numbered_rng(7, 0, torch.device('cpu')), torch.no_grad():
        logits, boxes = student.answers(order)
    total = weights = 0.0
    for n in range(2):
        for place, q in enumerate(chosen[n]):
            w = float(best[n, q])
            weights += w
            for layer in range(2):
                total += w * slow_difference(
                    logits[layer, n, place].tolist(),
                    boxes[layer, n, place].tolist(),
                    shown[layer, n, q].tolist(),
                    teacher.query_boxes[layer, n, q].tolist(),
                    softmax,
                )
    found = SharedQueries(top=top, seed=7)(student, teacher)
    assert found.item() == pytest.approx(total / max(weights, 1), rel=1e-4)


@pytest.mark.parametrize('student_host', [detr, deformable])
@pytest.mark.parametrize('teacher_host', [detr, dino])
def test_matched_queries_are_the_formula(student_host, teacher_host):
    student, teacher = pair(student_host(), teacher_host(queries=6))
    softmax = student_host is detr
    threshold = 0.02
    total = weights = 0.0
    for n, found in enumerate(teacher.detections):
        best = found.scores.amax(-1)
        kept = [b for b in range(6) if best[b] > threshold]
        scores, boxes = found.scores[kept], found.boxes[kept]
        weights += float(best[kept].sum())
        for layer in range(2):
            own = student.query_logits[layer, n].detach(), student.query_boxes[layer, n].detach()
            mine, theirs = matched(student.head, *own, Detections(scores, boxes), SIZES[n])
            for q, b in zip(mine.tolist(), theirs.tolist(), strict=True):
                wanted = scores[b].tolist()
                if softmax:
                    scale = max(sum(wanted), 1)
                    wanted = [p / scale for p in wanted]
                    wanted.append(1 - sum(wanted))
                difference = slow_difference(
                    own[0][q].tolist(), own[1][q].tolist(), wanted, boxes[b].tolist(), softmax
                )
                total += float(best[kept][b]) * difference
    assert weights > 0
    value = QueryMatching(threshold=threshold)(student, teacher)
    assert value.item() == pytest.approx(total / max(weights, 1), rel=1e-4)


@pytest.mark.parametrize('host', [detr, ddq])
def test_objects_of_one_class_are_matched_as_the_hosts_own_assigner_does(host):
    model = build(host())
    torch.manual_seed(0)
    logits = torch.randn(10, 4 if host is detr else 3)
    boxes = torch.rand(10, 4) * 0.4 + 0.2
    labels, (height, width) = torch.tensor([2, 0, 1, 1]), (50, 70)
    wanted = torch.rand(4, 4) * 0.4 + 0.2
    objects = Detections(torch.eye(3)[labels], wanted)
    pixels = torch.tensor([width, height, width, height])
    expected = model.bbox_head.assigner.assign(
        InstanceData(scores=logits, bboxes=bbox_cxcywh_to_xyxy(boxes) * pixels),
        InstanceData(labels=labels, bboxes=bbox_cxcywh_to_xyxy(wanted) * pixels),
        dict(img_shape=(height, width)),
    ).gt_inds
    mine, theirs = matched(model.bbox_head, logits, boxes, objects, (height, width))
    found = torch.zeros(10, dtype=torch.long)
    found[mine] = theirs + 1
    assert torch.equal(found, expected)
    assert len(linear_sum_assignment(np.zeros((10, 4)))[0]) == len(mine) == 4


def test_divergences_of_classes():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    assert class_divergence(logits, logits.sigmoid(), 'sigmoid').abs() < 1e-6
    shares = logits.softmax(-1)[:, :-1]
    assert class_divergence(logits, shares, 'softmax').abs() < 1e-6
    # of one class for certain: the cross entropy
    certain = torch.tensor([[0.0, 1.0]])
    expected = -logits.log_softmax(-1)[0, 1]
    torch.testing.assert_close(class_divergence(logits, certain, 'softmax')[0], expected)
    # more than certain: scaled down to it, and nothing is left for the background
    twice = class_divergence(logits, torch.tensor([[1.0, 1.0]]), 'softmax')
    torch.testing.assert_close(
        twice, class_divergence(logits, torch.tensor([[0.5, 0.5]]), 'softmax')
    )
    for activation in ('sigmoid', 'softmax'):
        far = torch.tensor([[100.0, -100.0, 100.0]], dtype=torch.float16, requires_grad=True)
        scores = torch.tensor([[0.0, 1.0, 0.0]])[:, : 3 if activation == 'sigmoid' else 2]
        value = class_divergence(far, scores, activation)
        value.sum().backward()
        assert value.dtype == torch.float32 and value.isfinite() and far.grad.isfinite().all()


def test_other_numbers_of_layers_compare_the_last_ones():
    deeper = dino()
    deeper['decoder']['num_layers'] = 3
    student, teacher = pair(dino(), deeper)
    found = SharedQueries()(student, teacher)
    assert torch.equal(found, SharedQueries(layers='last')(student, teacher))
    assert QueryMatching(threshold=0)(student, teacher) > 0


def test_a_teacher_that_finds_nothing_teaches_nothing():
    student, teacher = pair(dino(), dino())
    value = QueryMatching(threshold=0.999999)(student, teacher)
    assert value == 0
    value.backward()
    teacher.detections = [Detections(torch.zeros(0, 3), torch.zeros(0, 4))] * 2
    assert QueryMatching()(student, teacher) == 0


def test_any_detector_teaches_by_what_it_finds():
    student = detr() | dict(data_preprocessor=gfl()['data_preprocessor'])
    model = distiller(student, gfl(channels=32), dict(matching=LOSSES['matching']))
    teacher = model.teacher.model
    torch.nn.init.constant_(teacher.bbox_head.gfl_cls.bias, 0.0)
    logs = model.train_step(pairs.raw(SIZES), optimizer(model))
    assert logs['loss_kd_matching'] > 0 and logs['loss'].isfinite()


def test_under_autocast_the_queries_are_answered_in_single_precision():
    model = build(detr())
    batch = batch_for(model)
    with torch.autocast('cpu', torch.bfloat16):
        student = noted(model, batch)
    assert student.memory[0].dtype == torch.bfloat16
    teacher = DetrView(build(detr(), 1), batch, torch.no_grad)
    for kind in KINDS.values():
        value = kind()(student, teacher)
        assert value.dtype == torch.float32 and value.isfinite()
        value.backward(retain_graph=True)
    losses = {name: LOSSES[name] for name in KINDS}
    trained = distiller(detr(), detr(), losses, unlabelled_weight=1.0)
    with torch.autocast('cpu', torch.bfloat16):  # the student's pass is then our own
        logs = trained.train_step(unlabelled(), optimizer(trained))
    assert logs['loss'].isfinite() and logs['loss_kd_shared_unlabelled'] > 0


# -- which pairs -------------------------------------------------------------------------------


def test_auto_shares_queries_where_decoders_are_asked_the_same_and_else_matches():
    chosen = {
        ('dino', 'dino'): 'detr',
        ('dino', 'ddq'): 'detr',
        ('detr', 'detr'): 'detr',
        ('deformable', 'dino'): 'detr_matching',
    }
    for (student, teacher), expected in chosen.items():
        models = build(HOSTS[student]()), build(HOSTS[teacher](queries=14))
        assert choose_recipe(*models).name == expected, (student, teacher)
    assert choose_recipe(build(dino()), pairs.build(gfl())).name == 'detr_matching'


def test_pairs_that_cannot_share_are_refused_with_the_way_out():
    shared = dict(queries=dict(type='kd_dense.SharedQueries'))
    words = (
        r'what the decoder is asked by: the teacher has query \(32\), reference_points \(4\), the '
        r'student query \(32\), query_pos \(32\), reference_points \(2\) \(minded by losses.queries'
        r'[\s\S]*QueryMatching by any detector of the same classes'
    )
    with pytest.raises(SetupError, match=words):
        distiller(deformable(), dino(), shared)
    with pytest.raises(SetupError, match=r'host family: the teacher has one-stage') as caught:
        distiller(dino(), gfl(), shared)
    assert 'asked by' not in str(caught.value)
    for name in KINDS:
        losses = {name: {'type': f'kd_dense.{KINDS[name].__name__}'}}
        with pytest.raises(SetupError, match=r'losses\.\w+: .*GFL \(one-stage\)'):
            distiller(gfl(), gfl(), losses)


@pytest.mark.parametrize(
    ('kind', 'options', 'words'),
    [
        (SharedQueries, dict(cls=-1), 'cls is -1; it must be a finite number'),
        (SharedQueries, dict(top=0), 'top is 0; it must be a whole number'),
        (SharedQueries, dict(layers='first'), "layers is 'first'"),
        (QueryMatching, dict(threshold=1), 'threshold is 1; it is a score'),
        (QueryMatching, dict(top=2.5), 'top is 2.5'),
    ],
)
def test_values_out_of_their_range_are_refused(kind, options, words):
    with pytest.raises(SetupError, match=words):
        kind(**options)
