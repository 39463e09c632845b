"""The mean of several models as a teacher, and as a model that predicts."""

import copy
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch import nn

from kd_dense import MODELS, Ensemble, FrozenTeacher
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model
from kd_dense.hosts.heads import decode_boxes
from kd_dense.teachers import EnsembleModel, teacher_from
from kd_dense.teachers.averaging import average, average_sigmoid, average_softmax
from kd_dense.teachers.predicting import average_outputs
from tests.helpers import pairs, segmentation, two_stage
from tests.helpers.models import distiller, gfl, losses, raw_batch
from tests.helpers.trainings import base_config

HOSTS = dict(pairs.HOSTS, faster_rcnn=two_stage.faster_rcnn, mask_rcnn=two_stage.mask_rcnn)


def model_of(host: str, seed: int = 0) -> nn.Module:
    if host == 'pspnet':
        return segmentation.build(segmentation.segmentor(), seed).eval()
    build = two_stage.build if 'rcnn' in host else pairs.build
    return build(HOSTS[host](), seed)


def teacher_of(model: nn.Module) -> FrozenTeacher:
    return FrozenTeacher.of(copy.deepcopy(model), fast=False)


def ensemble_of(*models: nn.Module) -> Ensemble:
    ensemble = Ensemble({f'm{i}': teacher_of(model) for i, model in enumerate(models)})
    ensemble.load(models[0])
    return ensemble


def batch_of(model: nn.Module) -> dict:
    raw = raw_batch()
    if hasattr(model, 'decode_head'):  # which are tested on images of one size
        raw = segmentation.raw_batch(((64, 48),) * 2)
    return model.data_preprocessor(raw, False)


# -- means ---------------------------------------------------------------------------------------


def test_means_by_hand():
    zero, three = torch.zeros(1), torch.tensor([math.log(3.0)])
    assert average([zero, three]).item() == pytest.approx(math.log(3) / 2)
    # sigmoids 1/2 and 3/4: their mean 5/8 has the logit ln(5/3)
    assert average_sigmoid([zero, three]).item() == pytest.approx(math.log(5 / 3))
    two = [torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])]
    assert average_softmax(two, dim=1).softmax(1)[0].tolist() == pytest.approx([5 / 8, 3 / 8])


def test_means_are_those_of_the_probabilities():
    logits = [torch.randn(4, 7, generator=torch.Generator().manual_seed(i)) * 5 for i in range(3)]
    sigmoids, softmaxes = (
        torch.stack([f(each) for each in logits]).mean(0)
        for f in (torch.sigmoid, lambda x: x.softmax(1))
    )
    torch.testing.assert_close(average_sigmoid(logits).sigmoid(), sigmoids)
    torch.testing.assert_close(average_softmax(logits, 1).softmax(1), softmaxes)
    torch.testing.assert_close(average(logits), torch.stack(logits).mean(0))


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_equal_members_are_their_mean_bit_for_bit(count):
    logits = torch.randn(5, 17, generator=torch.Generator().manual_seed(0)) * 30
    for mean in (average, average_sigmoid, lambda each: average_softmax(each, 1)):
        assert torch.equal(mean([logits] * count), logits)


def test_extreme_logits_stay_finite():
    far = [torch.tensor([-200.0, 200.0]), torch.tensor([200.0, 200.0])]
    torch.testing.assert_close(average_sigmoid(far), torch.tensor([0.0, 200.0]), atol=1e-4, rtol=0)
    assert average_softmax([far[0][None], -far[0][None]], 1).isfinite().all()
    assert average_softmax([each.half() for each in far], 0).dtype == torch.float32


def test_the_mean_distribution_decodes_to_the_mean_box():
    heads = [pairs.build(gfl(), seed).bbox_head for seed in (0, 1)]
    bins = heads[0].reg_max + 1
    torch.manual_seed(0)
    maps, classes = [torch.randn(1, 4 * bins, 3, 5) for _ in heads], torch.randn(1, 3, 3, 5)
    (_, (mean,)) = average_outputs([([classes], [each]) for each in maps], heads[0])
    sizes = [(3, 5), (1, 1), (1, 1)]
    anchors = heads[0].prior_generator.grid_priors(sizes, device='cpu')[0]
    rows = [each.permute(0, 2, 3, 1).reshape(1, 15, -1) for each in (*maps, mean)]
    boxes = [decode_boxes(heads[0], each, anchors, torch.full((15,), 8)) for each in rows]
    torch.testing.assert_close(boxes[2], (boxes[0] + boxes[1]) / 2, rtol=1e-4, atol=1e-3)


# -- as a teacher --------------------------------------------------------------------------------


def readings(teacher, student_view, batch) -> dict[str, torch.Tensor]:
    view = teacher.view(batch, student_view)
    names = ['cls_logits', 'box_logits']
    if hasattr(view, 'roi_deltas'):
        names += ['roi_cls_logits', 'roi_deltas']
    elif hasattr(view, 'decoded_boxes') and 'Paa' not in type(view.head).__name__:
        names += ['decoded_boxes']
    if hasattr(view, 'seg_logits'):
        names = ['seg_logits', 'aux_logits']
    view.precompute(names)
    found = {}
    for name in names:
        value = getattr(view, name)
        for i, each in enumerate([value] if isinstance(value, torch.Tensor) else value):
            found[f'{name}.{i}'] = each
    return found


def student_of(host: str):
    if host == 'pspnet':
        ours, _ = segmentation.views(*segmentation.pair())
        return ours
    if 'rcnn' in host:
        model = two_stage.build(HOSTS[host]())
        batch = pairs.batch_for(model)
        if host == 'mask_rcnn':
            two_stage.with_masks(batch)
        return two_stage.noted(model, batch)
    model = pairs.build(HOSTS[host]())
    return pairs.noted(model, pairs.batch_for(model))


@pytest.mark.parametrize('host', [*HOSTS, 'pspnet'])
def test_of_a_model_with_itself_it_is_that_model_bit_for_bit(host):
    ours, model = student_of(host), model_of(host, 1)
    one = teacher_of(model)
    one.load(ours.model)
    several = Ensemble({name: teacher_of(model) for name in 'abc'})
    several.load(ours.model)
    expected = readings(one, ours, ours.batch)
    for name, value in readings(several, ours, ours.batch).items():
        assert torch.equal(value, expected[name].float()), name
        assert not value.requires_grad


@pytest.mark.parametrize('host', ['gfl', 'faster_rcnn', 'pspnet'])
def test_of_two_models_it_is_the_mean_of_their_probabilities(host):
    ours, models = student_of(host), [model_of(host, seed) for seed in (1, 2)]
    members = []
    for model in models:
        members.append(teacher_of(model))
        members[-1].load(ours.model)
    one, two = (readings(member, ours, ours.batch) for member in members)
    both = readings(ensemble_of(*models), ours, ours.batch)
    for name, value in both.items():
        if name.startswith(('cls_logits',)):
            torch.testing.assert_close(
                value.sigmoid(), (one[name].sigmoid() + two[name].sigmoid()) / 2
            )
        elif name.startswith(('roi_cls', 'seg', 'aux')):
            expected = (one[name].softmax(1) + two[name].softmax(1)) / 2
            torch.testing.assert_close(value.softmax(1), expected)
        elif host != 'gfl':
            torch.testing.assert_close(value, (one[name] + two[name]) / 2)
        elif name.startswith('decoded'):
            torch.testing.assert_close(value, (one[name] + two[name]) / 2, rtol=1e-4, atol=1e-2)


def test_it_teaches_each_member_running_once():
    members = dict(
        a=dict(config=gfl(channels=32), untrained=True), b=dict(config=gfl(), untrained=True)
    )
    config = distiller(teacher=dict(type='kd_dense.Ensemble', members=members))
    config['losses'].pop('imitation')
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    calls = []
    for name, member in model.teacher.members.items():
        member.model.backbone.register_forward_hook(lambda *_, name=name: calls.append(name))
    total, logs = model.parse_losses(
        model.train()(**model.data_preprocessor(raw_batch(), True), mode='loss')
    )
    total.backward()
    assert calls == ['a', 'b'] and logs['loss_kd_ld'] > 0
    assert not any('members' in name for name in model.state_dict())
    assert copy.deepcopy(model).teacher.members['a'] is model.teacher.members['a']


def test_losses_on_features_look_at_one_of_the_models():
    members = dict(a=dict(config=gfl(), untrained=True))
    ensemble = dict(type='kd_dense.Ensemble', members=members)
    with pytest.raises(SetupError, match=r'no features in common.*teachers=dict\(all='):
        MODELS.build(distiller(teacher=ensemble))
    with pytest.raises(SetupError, match=r'PearsonDistillation reads features.*does not offer'):
        config = distiller(
            teacher=ensemble, losses=dict(p=dict(type='kd_dense.PearsonDistillation'))
        )
        config['losses']['p']['adapter'] = 'none'
        MODELS.build(config).load_teacher()


def test_a_pair_is_checked_with_the_members_description():
    ensemble = Ensemble(dict(a=teacher_of(model_of('gfl'))))
    assert ensemble.info == teacher_of(model_of('gfl')).info
    assert ensemble.offers('cls_logits') and not ensemble.offers('features')


# -- as a model that predicts --------------------------------------------------------------------


def predictions(model, data) -> list[dict[str, torch.Tensor]]:
    with torch.no_grad():
        found = model(**copy.deepcopy(data), mode='predict')
    if hasattr(found[0], 'pred_sem_seg'):
        return [dict(label=f.pred_sem_seg.data, logits=f.seg_logits.data) for f in found]
    return [
        {k: torch.as_tensor(v) for k, v in f.pred_instances.items() if k != 'masks'} for f in found
    ]


@pytest.mark.parametrize('host', [*HOSTS, 'pspnet'])
def test_a_model_with_itself_predicts_what_it_predicts_bit_for_bit(host):
    model = model_of(host, 1)
    data = batch_of(model)
    ensemble = EnsembleModel.of({name: copy.deepcopy(model) for name in 'ab'})
    expected = predictions(model, data)
    assert any(len(each.get('scores', each.get('label'))) for each in expected)
    for ours, theirs in zip(predictions(ensemble, data), expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    (first, _) = ensemble.members.values()
    head = getattr(first, 'bbox_head', None)
    assert head is None or 'forward' not in vars(head)


def test_two_classifiers_of_opposite_opinions_are_undecided():
    models = [model_of('gfl', 0) for _ in range(2)]
    for model, sign in zip(models, (1, -1), strict=True):
        nn.init.zeros_(model.bbox_head.gfl_cls.weight)
        nn.init.constant_(model.bbox_head.gfl_cls.bias, sign * math.log(3))
    data = batch_of(models[0])
    scores = [predictions(m, data)[0]['scores'] for m in models]
    assert scores[0].max().item() == pytest.approx(0.75) and scores[1].max() < 0.26
    ensemble = EnsembleModel.of(dict(a=models[0], b=models[1]))
    assert predictions(ensemble, data)[0]['scores'].tolist() == pytest.approx([0.5] * 20, abs=1e-5)


def test_segmentors_vote_with_probabilities_at_the_size_of_the_image():
    models = [model_of('pspnet', seed) for seed in (1, 2)]
    data = batch_of(models[0])
    one, two = (predictions(model, data) for model in models)
    both = predictions(EnsembleModel.of(dict(a=models[0], b=models[1])), data)
    for a, b, mean in zip(one, two, both, strict=True):
        p = (a['logits'].softmax(0) + b['logits'].softmax(0)) / 2
        torch.testing.assert_close(mean['logits'].softmax(0), p)
        assert torch.equal(mean['label'][0], p.argmax(0))
    assert not torch.equal(both[0]['logits'], one[0]['logits'])


def test_members_may_be_of_other_widths_and_want_other_pixels():
    wide = gfl(channels=32, base=16)
    wide['data_preprocessor'].update(mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=False)
    models = [pairs.build(gfl(), 0), pairs.build(wide, 1)]
    data = batch_of(models[0])
    both = predictions(EnsembleModel.of(dict(a=models[0], b=models[1])), data)
    twice = EnsembleModel.of(dict(a=models[1], b=models[0]))
    again = predictions(twice, models[1].data_preprocessor(raw_batch(), False))
    for a, b in zip(both, again, strict=True):
        torch.testing.assert_close(a['scores'], b['scores'], rtol=1e-3, atol=1e-4)


def test_an_ensemble_does_not_train():
    model = model_of('gfl')
    with pytest.raises(SetupError, match="An ensemble only predicts; mode is 'loss'"):
        EnsembleModel.of(dict(a=model))(**batch_of(model), mode='loss')


def test_it_is_built_from_a_config_with_its_checkpoints(tmp_path):
    members, models = {}, []
    for seed, name in enumerate('ab'):
        models.append(pairs.build(gfl(), seed))
        path = tmp_path / f'{name}.pth'
        meta = dict(dataset_meta=dict(classes=('x', 'y', 'z')))
        torch.save(dict(state_dict=models[-1].state_dict(), meta=meta), path)
        members[name] = dict(config=gfl(), checkpoint=str(path))
    model = MODELS.build(Config(dict(m=dict(type='kd_dense.Ensemble', members=members))).m).eval()
    assert model.classes == ('x', 'y', 'z')
    data = batch_of(models[0])
    expected = predictions(EnsembleModel.of(dict(zip('ab', models, strict=True))), data)
    for ours, theirs in zip(predictions(model, data), expected, strict=True):
        torch.testing.assert_close(ours['scores'], theirs['scores'])
    assert isinstance(teacher_from(dict(type='kd_dense.Ensemble', members=members)), Ensemble)


# -- errors --------------------------------------------------------------------------------------


OTHER_STDS = two_stage.faster_rcnn(stds=(0.2, 0.2, 0.4, 0.4))
OTHER_SCALE = gfl()
OTHER_SCALE['bbox_head']['anchor_generator']['octave_base_scale'] = 8
HTC = two_stage.hybrid_cascade()
FIVE = gfl()
FIVE['bbox_head']['reg_max'] = 16


@pytest.mark.parametrize(
    ('one', 'other', 'what'),
    [
        (gfl(), pairs.fcos(), 'kind of head is GFLHead of the one and FCOSHead of the other'),
        (gfl(), FIVE, 'distribution over 9 bins'),
        (gfl(), OTHER_SCALE, 'encoding of the GFLHead'),
        (gfl(), gfl(num_classes=5), 'number of classes is 3 of the one and 5 of the other'),
        (two_stage.faster_rcnn(), OTHER_STDS, 'encoding of the Shared2FCBBoxHead'),
        (HTC, HTC, 'What a HybridTaskCascade computes is not'),
    ],
)
def test_predictions_that_mean_something_else_are_refused_with_another_way(one, other, what):
    ensemble = Ensemble({n: dict(config=c, untrained=True) for n, c in (('a', one), ('b', other))})
    with pytest.raises(SetupError, match=rf'{what}[\s\S]*WeightedBoxesFusion'):
        ensemble.load(build_model(Config(one)))


def test_members_of_other_classes_are_refused(tmp_path):
    members = {}
    for name, classes in dict(a=('x', 'y', 'z'), b=('z', 'y', 'x')).items():
        path = tmp_path / f'{name}.pth'
        state = pairs.build(gfl()).state_dict()
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=classes))), path)
        members[name] = dict(config=gfl(), checkpoint=str(path))
    with pytest.raises(SetupError, match='a: x, y, z; b: z, y, x'):
        Ensemble(members).load(pairs.build(gfl()))


@pytest.mark.parametrize('members', [{}, None, ['a.pth']])
def test_no_members_are_refused(members):
    with pytest.raises(SetupError, match=r'An Ensemble has `members=dict\('):
        Ensemble(members)


# -- in a training -------------------------------------------------------------------------------


def test_a_training_by_an_ensemble_with_all_hooks_draws_what_it_sees(digits_root, tmp_path):
    config = base_config(digits_root, tmp_path)
    members = {
        name: dict(config=gfl(channels=c, num_classes=10), untrained=True)
        for name, c in (('a', 16), ('b', 32))
    }
    config['model'] = distiller(
        student=gfl(num_classes=10),
        teacher=dict(type='kd_dense.Ensemble', members=members),
        losses=losses(ld=0.25, cls=1),
    )
    config['train_cfg'].update(max_iters=2, val_interval=2)
    config['custom_hooks'] = [
        dict(type='kd_dense.StudentCheckpointHook'),
        dict(type='kd_dense.LossBalanceHook', steps=1),
        dict(type='kd_dense.DistillationPictureHook', num_images=1),
    ]
    runner = Runner.from_cfg(Config(config))
    runner.train()
    assert (tmp_path / 'pictures' / 'val_iter_2.png').is_file()
    saved = torch.load(tmp_path / 'iter_2.pth', weights_only=False)['state_dict']
    assert {name.split('.')[0] for name in saved} == {'student'}
    assert not any(m.model.training for m in runner.model.teacher.members.values())


# -- one at a time -------------------------------------------------------------------------------


def test_one_member_is_asked_in_each_step_and_the_same_again_in_a_resumed_training():
    models = [model_of('gfl', seed) for seed in range(3)]
    ensemble = Ensemble({f'm{i}': teacher_of(m) for i, m in enumerate(models)}, pick='random')
    ensemble.load(models[0])
    data = batch_of(models[0])
    batch = pairs.Batch(data['inputs'], data['data_samples'])
    alone = [teacher.view(batch).flat_cls_logits for teacher in ensemble.members.values()]
    hub, asked = MessageHub.get_current_instance(), []
    runs = []
    for model in (each.model for each in ensemble.members.values()):
        model.backbone.register_forward_hook(lambda *_: runs.append(1))
    for step in (*range(12), *range(12)):
        hub.update_info('iter', step)
        seen = ensemble.view(batch).flat_cls_logits
        (index,) = [i for i, each in enumerate(alone) if torch.equal(each, seen)]
        asked.append(index)
    hub.runtime_info.pop('iter')
    assert set(asked) == {0, 1, 2} and asked[:12] == asked[12:]
    assert len(runs) == 24
    with pytest.raises(SetupError, match=r"pick.*'all', 'random'"):
        Ensemble(dict(a=dict(config=gfl(), untrained=True)), pick='any')
