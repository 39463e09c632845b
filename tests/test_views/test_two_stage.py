"""Two-stage detectors: their view, and the distiller's promises on them."""

import copy

import pytest
import torch
from mmdet.models.dense_heads import rpn_head
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import nn

from kd_dense import (
    MODELS,
    BoundedRegression,
    ClassWeightedSoftCrossEntropy,
    Distiller,
    FeatureImitation,
    SoftTargets,
)
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.hosts.pooling import pool_in_float32
from kd_dense.losses import global_divisor
from kd_dense.losses.regions import REGIONS, region_demands
from kd_dense.pictures.focus import look
from kd_dense.pictures.gallery import choose
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import FeatureView, TwoStageView, view_class
from tests.helpers import pairs
from tests.helpers.models import FLOAT16, gradients, raw_batch
from tests.helpers.pairs import batch_for
from tests.helpers.two_stage import (
    build,
    cascade_rcnn,
    distiller,
    faster_rcnn,
    losses,
    mask_rcnn,
    noted,
    pair,
    with_masks,
)


def make(**changes) -> Distiller:
    torch.manual_seed(0)
    model = MODELS.build(distiller(**changes))
    model.init_weights()
    return model.train()


def step(model: nn.Module, batch: dict, seed: int = 0) -> dict:
    """One training step that keeps the gradients; returns what mmengine logs."""
    torch.manual_seed(seed)
    model.zero_grad()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    total, logs = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    return {name: value.detach() for name, value in logs.items()}


# -- the view ----------------------------------------------------------------------------------


def test_what_is_noted_of_a_student_is_what_its_loss_used():
    model = build()
    batch = batch_for(model)
    view = noted(model, batch)
    features = model.extract_feat(batch.images)
    scores, boxes = model.rpn_head(features)
    for level in range(3):
        assert torch.equal(view.features[level], features[level])
        assert torch.equal(view.cls_logits[level], scores[level])
        assert torch.equal(view.box_logits[level], boxes[level])
    results = model.roi_head._bbox_forward(features, view.proposals)
    assert torch.equal(view.roi_cls_logits, results['cls_score'])
    assert torch.equal(view.roi_deltas, results['bbox_pred'])
    assert view.roi_cls_logits.requires_grad and not view.proposals.requires_grad
    own = model.roi_head.bbox_head.loss(
        view.roi_cls_logits, view.roi_deltas, view.proposals, *view.roi_targets,
        bbox_weights=(view.roi_positives[:, None]).float().expand(-1, 4),
    )  # fmt: skip
    for name in ('loss_cls', 'loss_bbox'):
        torch.testing.assert_close(own[name], view.own_loss(name))


def test_the_assignment_is_the_sampled_one_of_the_students_own_rpn():
    view = noted(build(), batch_for(build()))
    labels, weights = view.assignment.labels, view.assignment.label_weights
    assert labels.shape == weights.shape == (2, 420 * 3) == view.valid.shape
    assert set(labels.unique().tolist()) == {0, 1}  # object and background
    assert (weights > 0).sum() == 2 * 24
    assert view.positives.sum() > 0 and (weights[view.positives] == 1).all()
    grid = torch.cat(view.head.prior_generator.grid_priors(view.level_sizes, device='cpu'))
    assert torch.equal(view.anchors, grid)
    positive = view.positives[0].nonzero()[0]
    target = view.head.bbox_coder.decode(grid[positive], view.assignment.box_targets[0, positive])
    assert torch.isclose(target, view.boxes[0], atol=0.1).all(dim=1).any()


def test_a_teacher_scores_the_students_proposals_as_its_own_roi_head_does():
    student, teacher = pair(teacher=faster_rcnn(channels=32))
    model = teacher.model
    with torch.no_grad():
        features = model.extract_feat(student.batch.images)
        proposals = [
            InstanceData(bboxes=student.proposals[student.proposals[:, 0] == image, 1:])
            for image in range(2)
        ]
        assert torch.equal(bbox2roi([p.bboxes for p in proposals]), student.proposals)
        scores, deltas = model.roi_head.forward(features, proposals, student.batch.samples)
    torch.testing.assert_close(teacher.roi_cls_logits, scores)  # ours runs image by image
    torch.testing.assert_close(teacher.roi_deltas, deltas)
    assert teacher.proposals is student.proposals and not teacher.roi_cls_logits.requires_grad
    assert not torch.allclose(student.roi_cls_logits, teacher.roi_cls_logits, atol=0.1)


@pytest.mark.parametrize('kept', [slice(24, None), slice(0, 24), slice(0, 0)])
def test_a_teacher_scores_images_without_proposals(kept):
    student, teacher = pair(teacher=faster_rcnn(channels=32))
    expected = teacher.roi_cls_logits[kept]
    assert student.proposals[:, 0].tolist() == [0] * 24 + [1] * 24
    student.proposals = student.proposals[kept]
    again = TwoStageView(teacher.model, student.batch, torch.no_grad, student)
    torch.testing.assert_close(again.roi_cls_logits, expected)
    assert again.roi_deltas.shape == (len(expected), 4 * 3)


def test_a_teacher_without_a_two_stage_student_has_nothing_to_score():
    model = build()
    view = TwoStageView(model, batch_for(model), torch.no_grad)
    for read in ('roi_cls_logits', 'roi_targets', 'assignment'):
        with pytest.raises(SetupError, match=r'^No \w+.*known of this'):
            getattr(view, read)
    with pytest.raises(RuntimeError, match='was not noted'):
        view.own_loss('loss_cls')


def test_noting_changes_neither_losses_nor_gradients_nor_random_numbers():
    model = build()
    batch = batch_for(model)
    found = []
    for inside in (False, True):
        torch.manual_seed(5)
        model.zero_grad()
        view = TwoStageView(model, batch)
        with view.recording() if inside else torch.enable_grad():
            total, _ = model.parse_losses(model.loss(batch.images, batch.samples))
        total.backward()
        found.append((total.detach(), model.neck.fpn_convs[0].conv.weight.grad.clone(),
                      torch.rand(3)))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    noted_parts = (model.rpn_head, model.roi_head, model.roi_head.bbox_head, model)
    assert not any({'get_targets', '_bbox_forward', 'loss'} & set(vars(m)) for m in noted_parts)


def test_mask_rcnn_shows_its_boxes_part():
    model = build(mask_rcnn())
    view = noted(model, with_masks(batch_for(model)))
    assert view.own_loss('loss_mask') > 0
    assert view.roi_cls_logits.shape == (len(view.proposals), 4)
    teacher = TwoStageView(build(faster_rcnn(), 1), view.batch, torch.no_grad, view)
    assert teacher.roi_cls_logits.shape == view.roi_cls_logits.shape
    for loss in (ClassWeightedSoftCrossEntropy('roi', mu=None), BoundedRegression('roi')):
        assert loss(view, teacher) > 0


def test_a_cascade_shows_classes_and_boxes_of_its_first_stage():
    model = build(cascade_rcnn())
    assert view_class(model) is TwoStageView
    view = noted(model, batch_for(model))
    with torch.no_grad():
        results = model.roi_head._bbox_forward(0, view.features, view.proposals)
    torch.testing.assert_close(view.roi_cls_logits.detach(), results['cls_score'])
    torch.testing.assert_close(view.roi_deltas.detach(), results['bbox_pred'])
    assert len(view.roi_targets.labels) == len(view.proposals)
    assert view.box_head is model.roi_head.bbox_head[0]
    for name in ('loss_cls', 'loss_bbox'):
        assert torch.equal(view.own_loss(name), view.own_losses[f's0.{name}'])
    teacher = TwoStageView(model, view.batch, torch.no_grad, noted(build(seed=1), view.batch))
    again = model.roi_head._bbox_forward(0, teacher.features, teacher.proposals)
    torch.testing.assert_close(teacher.roi_cls_logits, again['cls_score'])


def test_a_cascade_learns_and_teaches():
    model = make(student=cascade_rcnn(), losses=dict(losses(), dist=dict(
        type='kd_dense.RelationDistillation', part='roi')))  # fmt: skip
    logs = step(model, raw_batch())
    assert logs['loss_kd_roi_cls'] != 0 and logs['loss_kd_dist'] > 0 and logs['s1.loss_cls'] > 0
    reached = gradients(model.student)
    assert reached['roi_head.bbox_head.0.fc_cls.weight'].any()
    teacher = dict(config=cascade_rcnn(faster_rcnn(channels=32)), untrained=True)
    logs = step(make(teacher=teacher), raw_batch())
    assert all(logs[f'loss_kd_{name}'].isfinite() for name in losses())


# -- regions -----------------------------------------------------------------------------------


@pytest.mark.parametrize('region', ['all', 'main', 'box'])
def test_regions_of_the_rpn(region):
    student, teacher = pair()
    assert region_demands(region, student.model) == []
    mask = REGIONS[region](student, teacher)
    assert mask.shape == (2, 1260) and 0 < mask.sum() <= student.valid.sum()
    if region == 'main':
        assert torch.equal(mask, student.assignment.labels == 0)
    for loss in (FeatureImitation(region, adapter='none'), SoftTargets(region=region)):
        assert loss(student, teacher) > 0


@pytest.mark.parametrize('region', ['vlr', 'fine_grained', 'general'])
def test_regions_of_other_heads_are_refused(region):
    (found,) = region_demands(region, build())
    assert found.startswith(f"region '{region}' needs") and found.endswith('found RPNHead')


def test_pictures_show_the_positives_of_the_rpn(digits_root):
    dataset = [
        dict(inputs=inputs, data_samples=sample) for inputs, sample in zip(*raw_batch().values(),
                                                                           strict=True)
    ]  # fmt: skip
    images = list(choose(dataset, 2, evaluation=False))
    torch.manual_seed(0)
    dots = look(build(), images)
    assert list(dots) == ['main'] and sum(len(d.centres) for d in dots['main']) > 0
    assert look(build(mask_rcnn()), images) == {}


# -- pairs -------------------------------------------------------------------------------------

EACH = {
    'hint': FeatureImitation(),
    'rpn_cls': ClassWeightedSoftCrossEntropy('rpn'),
    'roi_cls': ClassWeightedSoftCrossEntropy('roi'),
    'rpn_reg': BoundedRegression('rpn'),
    'roi_reg': BoundedRegression('roi'),
}


def minding(teacher: dict, **kwargs) -> dict[str, str]:
    """Which losses mind what of a teacher of the small student."""
    try:
        pairs.check_models(build(), build(teacher), EACH, **kwargs)
    except SetupError as error:
        lines = [line.removeprefix('  - ') for line in str(error).split('\n')[1:-1]]
        return {line.split(':')[0]: line.split('minded by ')[1] for line in lines}
    return {}


def test_pairs_that_fit():
    assert minding(faster_rcnn(channels=32)) == {}
    assert minding(faster_rcnn(stds=(0.2, 0.2, 0.2, 0.2))) == {}
    assert minding(faster_rcnn(reg_class_agnostic=True)) == {}


def test_another_number_of_classes_is_refused():
    teacher = faster_rcnn(num_classes=5)
    everyone = ', '.join(f'losses.{name}' for name in EACH) + ')'
    assert minding(teacher) == {'number of classes': everyone}
    found = minding(teacher, same_classes=False)
    assert found == {'number of classes': 'losses.rpn_cls, losses.roi_cls, losses.roi_reg)'}


def test_other_anchors_are_refused_for_losses_on_the_rpn_alone():
    found = minding(faster_rcnn(scales=(8,)))
    assert found == {'shapes of the anchors': 'losses.rpn_cls, losses.rpn_reg)'}
    found = minding(faster_rcnn(scales=(2, 4)))
    assert found == {'predictions per position': 'losses.rpn_cls, losses.rpn_reg)'}


def test_other_scores_of_proposals_are_refused():
    seesaw = dict(type='SeesawLoss', num_classes=3, p=0.8, q=2.0)
    assert minding(faster_rcnn(loss_cls=seesaw)) == {
        "kind of the proposals' class scores": 'losses.roi_cls)'
    }


def test_a_one_stage_teacher_is_refused_but_for_hints_of_any_size():
    with pytest.raises(SetupError, match='host family: the teacher has one-stage, the student two'):
        pairs.check_models(build(), pairs.build(pairs.retina()), EACH)
    hint = dict(hint=FeatureImitation(align='interpolate'))
    pairs.check_models(build(), pairs.build(pairs.retina()), hint)


# -- the distiller -----------------------------------------------------------------------------


def test_weights_of_zero_train_the_student_as_it_would_without_us():
    torch.manual_seed(0)
    plain = build_model(read_model_config(faster_rcnn(), 'student'))
    plain.init_weights()
    plain.train()
    off = make(losses=losses(hint=0, rpn_cls=0, roi_cls=0, rpn_reg=0, roi_reg=0))
    mixed = make(losses=dict(losses(), roi_cls=dict(losses()['roi_cls'], mu=1.0)))
    for seed in range(3):
        batch = raw_batch(seed=seed)
        expected = step(plain, batch, seed)
        step(off, batch, seed)
        for name, gradient in gradients(plain).items():
            assert torch.equal(gradient, gradients(off.student)[name]), name
    for name, value in plain.state_dict().items():
        assert torch.equal(value, off.student.state_dict()[name]), name
    logs = step(mixed, raw_batch(seed=0), 0)
    assert {n for n in logs if 'kd' not in n} == set(expected)


def test_a_loss_in_force_leaves_the_students_own_losses_and_random_numbers_alone():
    plain = make(losses=losses(hint=0))
    on = make()
    data = plain.data_preprocessor(raw_batch(), True)
    found = []
    for model in (plain, on):
        torch.manual_seed(3)
        out = model(**copy.deepcopy(data), mode='loss')
        found.append([{k: v for k, v in out.items() if 'kd' not in k}, torch.rand(2)])
    (a, random_a), (b, random_b) = found
    assert torch.equal(random_a, random_b) and a.keys() == b.keys()
    for name, value in a.items():
        values = zip(value, b[name], strict=True) if isinstance(value, list) else [(value, b[name])]
        assert all(torch.equal(x, y) for x, y in values), name


@pytest.mark.parametrize(
    ('names', 'parts'),
    [
        ({'hint': 0.0}, []),
        ({'hint': 1.0}, ['backbone']),
        ({'rpn_cls': 1.0, 'rpn_reg': 1.0}, ['backbone', 'rpn_head']),
        # the box head once per image
        ({'roi_cls': 1.0, 'roi_reg': 1.0}, ['backbone', 'bbox_head', 'bbox_head']),
        ({'hint': 1, 'rpn_reg': 1, 'roi_cls': 1, 'roi_reg': 1},
         ['backbone', 'rpn_head', 'bbox_head', 'bbox_head']),
    ],
)  # fmt: skip
def test_teacher_runs_once_and_only_as_deep_as_it_is_read(names, parts):
    model = make(losses=losses(**names))
    teacher, calls = model.teacher.model, []
    for name, part in (
        ('backbone', teacher.backbone),
        ('rpn_head', teacher.rpn_head),
        ('bbox_head', teacher.roi_head.bbox_head),
    ):
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    step(model, raw_batch())
    assert calls == parts


def test_hints_of_any_size_cross_families_in_a_training_step():
    hint = dict(type='kd_dense.FeatureImitation', align='interpolate')
    teacher = dict(config=pairs.retina(), untrained=True)
    logs = step(make(teacher=teacher, losses=dict(hint=hint)), raw_batch())
    assert logs['loss_kd_hint'] > 0


def test_gradients_reach_adapters_and_student_and_never_the_teacher():
    model = make(losses={n: dict(c, mu=None) if 'cls' in n else c for n, c in losses().items()})
    torch.manual_seed(0)
    out = model(**model.data_preprocessor(raw_batch(), True), mode='loss')
    reached = {
        'hint': ['losses.hint.adapters.0.weight', 'student.neck.fpn_convs.0.conv.weight'],
        'rpn_cls': ['student.rpn_head.rpn_cls.weight'],
        'rpn_reg': ['student.rpn_head.rpn_reg.weight'],
        'roi_cls': ['student.roi_head.bbox_head.fc_cls.weight'],
        'roi_reg': ['student.roi_head.bbox_head.fc_reg.weight'],
    }
    for name, wanted in reached.items():
        model.zero_grad()
        out[f'loss_kd_{name}'].backward(retain_graph=True)
        found = {n for n, g in gradients(model).items() if g.any()}
        assert set(wanted) <= found, name
        assert 'student.backbone.conv1.weight' in found, name
    assert all(p.grad is None for p in model.teacher.model.parameters())


@pytest.mark.parametrize('boxes', [(0, 0), (0, 2)])
def test_images_without_objects_give_finite_losses_with_gradients(boxes):
    model = make()
    logs = step(model, raw_batch(boxes))
    assert all(torch.isfinite(torch.as_tensor(v)) for v in logs.values())
    assert all(torch.isfinite(g).all() for g in gradients(model).values())


def test_an_rpn_that_yields_no_positives_gives_finite_losses():
    student = faster_rcnn()
    for stage in ('rpn', 'rcnn'):  # nothing overlaps that well
        student['train_cfg'][stage]['assigner'].update(
            pos_iou_thr=0.999, min_pos_iou=0.999, neg_iou_thr=0.99
        )
        student['train_cfg'][stage]['sampler']['add_gt_as_proposals'] = False
    model = make(student=student)
    logs = step(model, raw_batch())
    assert all(torch.isfinite(torch.as_tensor(v)) for v in logs.values())
    assert logs['loss_kd_roi_reg'] == logs['loss_kd_rpn_reg'] == 0 and logs['loss_kd_roi_cls'] != 0


def test_autocast_computes_the_losses_in_float32(monkeypatch):
    nms = rpn_head.batched_nms  # mmcv's NMS and pooling know no bfloat16 on the CPU
    monkeypatch.setattr(rpn_head, 'batched_nms', lambda b, s, *a: nms(b.float(), s.float(), *a))
    model = make(student=faster_rcnn(sampled=1000))  # all are sampled: nothing is left to chance
    pool_in_float32(model.student)
    data = model.data_preprocessor(raw_batch(), True)
    full = model(**copy.deepcopy(data), mode='loss')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = model(**data, mode='loss')
    for name in losses():
        value = half[f'loss_kd_{name}']
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        if 'roi' not in name:  # other proposals survive the NMS
            torch.testing.assert_close(value, full[f'loss_kd_{name}'], rtol=0.2, atol=0.02)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', FLOAT16])
def test_a_fast_teacher_scores_proposals_as_a_plain_one(dtype):
    model = build()
    view = noted(model, batch_for(model))
    found = []
    for options in (dict(fast=False), dict(fast=True, dtype=dtype)):
        torch.manual_seed(1)
        teacher = FrozenTeacher(faster_rcnn(channels=32), untrained=True, **options)
        teacher.load(model)
        with torch.no_grad():  # logits far from their start
            box_head = teacher.model.roi_head.bbox_head
            for seed, layer in enumerate((box_head.fc_cls, box_head.fc_reg)):
                generator = torch.Generator().manual_seed(seed)
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        found.append(teacher.view(view.batch, view))
    plain, fast = found
    scale = float(plain.roi_cls_logits.std())
    assert fast.roi_cls_logits.dtype == torch.float32 and scale > 0.1
    tolerance = 1e-4 if dtype == 'float32' else 0.05
    torch.testing.assert_close(
        fast.roi_cls_logits, plain.roi_cls_logits, rtol=0, atol=tolerance * scale * 4
    )


def test_the_teachers_pooling_returns_what_mmcvs_does_in_any_layout():
    model = build()
    view = noted(model, batch_for(model))
    extractor = model.roi_head.bbox_roi_extractor
    features = [f.detach() for f in view.features]
    plain = extractor(features, view.proposals)
    pool_in_float32(model)
    assert torch.equal(extractor(features, view.proposals), plain)
    turned = [f.contiguous(memory_format=torch.channels_last) for f in features]
    assert torch.equal(extractor(turned, view.proposals), plain)
    assert all(layer.use_torchvision for layer in extractor.roi_layers)


def test_losses_on_regions_and_classes_of_the_rpn_work_too():
    more = dict(
        main=dict(type='kd_dense.FeatureImitation', region='main'),
        soft=dict(type='kd_dense.SoftTargets', region='main'),
    )
    logs = step(make(losses=more), raw_batch())
    assert logs['loss_kd_main'] > 0 and logs['loss_kd_soft'] > 0


def test_a_plain_student_checkpoint_serves_and_predicting_builds_no_teacher():
    model = MODELS.build(
        distiller(
            teacher=dict(config='gone.py', checkpoint='gone.pth'),
            losses={n: c for n, c in losses().items() if n != 'hint'},
        )
    ).eval()
    plain = build_model(read_model_config(faster_rcnn(), 'student'))
    model.load_state_dict(plain.state_dict(), strict=True)
    assert len(model(**model.data_preprocessor(raw_batch(), False), mode='predict')) == 2


def test_views_are_found_by_family():
    assert view_class(build()) is TwoStageView is view_class(build(mask_rcnn()))
    assert global_divisor(torch.tensor(0)) == 1


@pytest.mark.parametrize('where', ['bbox_head', 'roi_head', 'rpn_head', 'model'])
def test_of_hosts_that_assign_or_train_otherwise_the_features_are_seen(where):
    model = build()
    owner = {
        'bbox_head': model.roi_head.bbox_head,
        'roi_head': model.roi_head,
        'rpn_head': model.rpn_head,
        'model': model,
    }[where]
    kind, method = type(owner), 'get_targets' if where == 'bbox_head' else 'loss'
    other = type('Other', (kind,), {method: lambda self, *args: getattr(kind, method)(*args)})
    if where in ('roi_head', 'rpn_head'):
        other = type('Other', (nn.Module,), {})
    owner.__class__ = other
    assert view_class(model) is FeatureView
