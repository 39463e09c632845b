"""Students that train beside the shipped one, and teach each other: deep mutual learning."""

import copy
import json
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS
from kd_dense.errors import SetupError
from kd_dense.export.plain import read_plain
from kd_dense.hosts import build_model, read_model_config
from kd_dense.hosts.checkpoints import model_state
from kd_dense.hosts.configs import peer_model, plain_student
from kd_dense.live_optim import LiveOptimWrapper
from tests.helpers import pairs, segmentation, two_stage
from tests.helpers.models import gfl, gradients, raw_batch
from tests.helpers.trainings import assert_same, state, train, training

CONSTRUCTOR = 'kd_dense.LiveOptimWrapperConstructor'
OPTIMIZER = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9),
    clip_grad=dict(max_norm=0.1),  # below every norm here: it always clips
)
SOFT = dict(type='kd_dense.SoftTargets', region='main', temperature=2)
BOX = dict(type='kd_dense.LocalizationDistillation', region='main', weight=0.25)


def mutual(**weights: float) -> dict:
    """Both ways, classes and boxes."""
    found = dict(
        from_b=dict(SOFT, teacher='b'),
        to_b=dict(SOFT, student='b', teacher='student'),
        box_from_b=dict(BOX, teacher='b'),
        box_to_b=dict(BOX, student='b', teacher='student'),
    )
    for name, weight in weights.items():
        found[name]['weight'] = weight
    return found


def config(losses=None, student=None, peers=None, **more) -> dict:
    return dict(
        type='kd_dense.Distiller',
        student=student or gfl(),
        peers=peers or dict(b=dict(model=student or gfl())),
        losses=mutual() if losses is None else losses,
        **more,
    )


def build(seed: int = 0, **parts) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(config(**parts)))
    model.init_weights()
    return model.train()


def optimizer(model, **more) -> LiveOptimWrapper:
    return build_optim_wrapper(
        model, dict(copy.deepcopy(OPTIMIZER), constructor=CONSTRUCTOR, **more)
    )


def off() -> dict:
    return mutual(from_b=0, to_b=0, box_from_b=0, box_to_b=0)


ALONE = {
    'one stage': (gfl, raw_batch),
    'two stages': (two_stage.faster_rcnn, raw_batch),
    'segmentor with dropout': (
        lambda: _dropout(segmentation.segmentor()),
        segmentation.raw_batch,
    ),
}


def _dropout(model: dict) -> dict:
    model['decode_head']['dropout_ratio'] = 0.5
    return model


@pytest.mark.parametrize('case', ALONE)
def test_with_all_weights_0_the_student_is_the_one_trained_alone(case):
    student, batch = ALONE[case]
    hint = dict(type='kd_dense.FeatureImitation', weight=0)
    losses = dict(one=dict(hint, teacher='b'), two=dict(hint, student='b', teacher='student'))
    torch.manual_seed(0)
    plain = build_model(read_model_config(student(), 'student'))
    plain.init_weights()
    plain.train()
    model = build(losses=losses, student=student())
    alone, live = build_optim_wrapper(plain, copy.deepcopy(OPTIMIZER)), optimizer(model)
    for seed in range(3):
        data = batch(seed=seed)
        torch.manual_seed(seed)  # of dropout and samplers
        plain.train_step(copy.deepcopy(data), alone)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        model.train_step(copy.deepcopy(data), live)
        assert torch.equal(torch.get_rng_state(), state)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[name]), name
    moved = model.peers['b'].model.state_dict()
    assert any(not torch.equal(moved[name], value) for name, value in plain.state_dict().items())


def test_a_peer_starts_elsewhere_and_trains_as_it_would_alone_too():
    model = build(losses=off())
    peer = model.peers['b'].model
    assert not torch.equal(peer.backbone.conv1.weight, model.student.backbone.conv1.weight)
    alone = copy.deepcopy(peer)
    steps = build_optim_wrapper(alone, copy.deepcopy(OPTIMIZER)), optimizer(model)
    for seed in range(2):
        alone.train_step(raw_batch(seed=seed), steps[0])
        model.train_step(raw_batch(seed=seed), steps[1])
    for name, value in alone.state_dict().items():
        assert torch.equal(value, peer.state_dict()[name]), name


def test_two_peers_start_differently_and_the_same_again_with_the_same_seed():
    peers = dict(b=dict(model=gfl()), c=dict(model=gfl()))
    losses = dict(one=dict(SOFT, teacher='b'))
    first, again = (build(losses=losses, peers=peers) for _ in range(2))
    b, c = (first.peers[name].model.bbox_head.gfl_cls.weight for name in 'bc')
    assert not torch.equal(b, c)
    assert torch.equal(b, again.peers['b'].model.bbox_head.gfl_cls.weight)


def test_each_learns_from_the_other_and_no_gradient_goes_to_who_is_looked_at():
    model = build(losses=mutual(to_b=0, box_to_b=0), peers=dict(b=dict(model=gfl(), weight=0)))
    data = model.data_preprocessor(raw_batch(), True)
    total, logs = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert logs['loss_kd_from_b'] > 0 and logs['loss_kd_to_b'] == 0
    assert gradients(model.student)
    assert all(not g.any() for g in gradients(model.peers['b'].model).values())
    assert logs['b.loss_cls'] == 0


def test_gradients_are_those_of_a_written_out_loop():
    model = build()
    other = copy.deepcopy(model)
    data = model.data_preprocessor(raw_batch(), True)
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    # by hand: own losses, and the losses of two views made apart, of detached outputs
    both = other.student, other.peers['b'].model
    samples = data['data_samples']
    found = []
    for me, them in (both, both[::-1]):
        own = me.loss(data['inputs'], samples)
        mine, theirs = pairs.noted(me, pairs.Batch(data['inputs'], samples)), None
        with torch.no_grad():
            theirs = pairs.noted(them, pairs.Batch(data['inputs'], samples))
        value = other.losses['from_b'](mine, theirs) + 0.25 * other.losses['box_from_b'](
            mine, theirs
        )
        found.append(other.parse_losses(own)[0] + value)
    for me, value in zip(both, found, strict=True):
        names, parameters = zip(*me.named_parameters(), strict=True)
        wanted = torch.autograd.grad(value, parameters, allow_unused=True)
        got = model.student if me is both[0] else model.peers['b'].model
        for name, gradient in zip(names, wanted, strict=True):
            if gradient is not None:
                torch.testing.assert_close(
                    gradients(got)[name], gradient, rtol=1e-4, atol=1e-6, msg=name
                )


def test_swapping_the_names_swaps_the_results():
    model = build()
    swapped = copy.deepcopy(model)
    swapped.student.load_state_dict(model.peers['b'].model.state_dict())
    swapped.peers['b'].model.load_state_dict(model.student.state_dict())
    data = model.data_preprocessor(raw_batch(), True)
    one, two = (m.parse_losses(m(**data, mode='loss'))[1] for m in (model, swapped))
    for mine, theirs in (('from_b', 'to_b'), ('box_from_b', 'box_to_b')):
        torch.testing.assert_close(one[f'loss_kd_{mine}'], two[f'loss_kd_{theirs}'])
        torch.testing.assert_close(one[f'loss_kd_{theirs}'], two[f'loss_kd_{mine}'])
    torch.testing.assert_close(one['loss_cls'], two['b.loss_cls'])


def test_a_frozen_teacher_teaches_both_and_runs_once():
    losses = dict(
        one=dict(SOFT, teacher='teacher'),
        two=dict(SOFT, student='b', teacher='teacher'),
        mutual=dict(SOFT, teacher='b'),
    )
    model = build(losses=losses, teacher=dict(config=gfl(channels=32), untrained=True))
    calls = []
    model.teacher.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    logs = model.train_step(raw_batch(), optimizer(model))
    assert len(calls) == 1
    assert logs['loss_kd_one'] > 0 and logs['loss_kd_two'] > 0
    assert logs['loss_kd_one'] != logs['loss_kd_two']


@pytest.mark.parametrize('part', ['roi', 'rpn'])
def test_two_stage_peers_score_each_others_proposals_and_change_nothing_of_each_other(part):
    soft = dict(type='kd_dense.ClassWeightedSoftCrossEntropy', part=part)
    losses = dict(one=dict(soft, teacher='b'), two=dict(soft, student='b', teacher='student'))
    model = build(losses=losses, student=two_stage.faster_rcnn())
    alone = build(losses=dict(one=dict(losses['one'], weight=0)), student=two_stage.faster_rcnn())
    data = model.data_preprocessor(raw_batch(), True)
    logs = []
    for each in (model, alone):
        torch.manual_seed(3)
        logs.append(each.parse_losses(each(**copy.deepcopy(data), mode='loss'))[1])
    assert logs[0]['loss_kd_one'] > 0 and logs[0]['loss_kd_two'] > 0
    for name in ('loss_cls', 'b.loss_cls', 'loss_rpn_cls', 'b.loss_rpn_cls'):
        torch.testing.assert_close(logs[0][name], logs[1][name], rtol=0, atol=0)
    for name, value in alone.state_dict().items():
        if 'running' in name or 'num_batches' in name:
            assert torch.equal(value, model.state_dict()[name]), name
    assert all(module.training for module in model.peers['b'].model.roi_head.modules())


def test_segmentors_teach_each_other():
    pixel = dict(type='kd_dense.PixelWise')
    losses = dict(one=dict(pixel, teacher='b'), two=dict(pixel, student='b', teacher='student'))
    model = build(losses=losses, student=segmentation.segmentor())
    logs = model.train_step(segmentation.raw_batch(), optimizer(model))
    assert logs['loss_kd_one'] > 0 and logs['b.decode.loss_ce'] > 0


def test_other_architectures_are_checked_as_teachers_are():
    peers = dict(b=dict(model=pairs.fcos()))
    with pytest.raises(
        SetupError, match=r"Teacher 'student' .GFLHead. and b .FCOSHead. do not fit"
    ):
        build(peers=peers)
    hint = dict(type='kd_dense.FeatureImitation')
    losses = dict(one=dict(hint, teacher='b'), two=dict(hint, student='b', teacher='student'))
    model = build(peers=peers, losses=losses)
    assert model.train_step(raw_batch(), optimizer(model))['loss_kd_two'] > 0


# -- training ------------------------------------------------------------------------------------


def test_each_model_has_an_optimizer_with_its_adapters():
    hint = dict(type='kd_dense.FeatureImitation', adapter='conv1x1')
    losses = dict(one=dict(hint, teacher='b'), two=dict(hint, student='b', teacher='student'))
    model = build(losses=losses, peers=dict(b=dict(model=gfl(), optim_wrapper=dict(
        optimizer=dict(type='SGD', lr=0.5)))))  # fmt: skip
    wrapper = optimizer(model)
    held = {
        name: {id(p) for group in each.param_groups for p in group['params']}
        for name, each in wrapper.items()
    }
    assert held['student'] == {
        id(p) for part in (model.student, model.losses['one']) for p in part.parameters()
    }
    assert held['b'] == {
        id(p) for part in (model.peers['b'], model.losses['two']) for p in part.parameters()
    }
    assert wrapper['b'].get_lr()['lr'] == [0.5] and wrapper['student'].get_lr()['lr'] == [0.01]


def test_accumulated_gradients_move_both_every_second_step():
    model = build()
    wrapper = optimizer(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = copy.deepcopy(model.state_dict())
    moved = []
    for seed in range(4):
        model.train_step(raw_batch(seed=seed), wrapper)
        now = model.state_dict()
        names = ('student.bbox_head.gfl_cls.weight', 'peers.b.model.bbox_head.gfl_cls.weight')
        moved.append([not torch.equal(now[name], before[name]) for name in names])
        before = copy.deepcopy(now)
    assert moved == [[False] * 2, [True] * 2] * 2


def test_a_training_with_one_optimizer_for_all_is_refused():
    model = build()
    with pytest.raises(SetupError, match=r'have an optimizer each.*LiveOptimWrapperConstructor'):
        model.train_step(raw_batch(), build_optim_wrapper(model, copy.deepcopy(OPTIMIZER)))
    plain = MODELS.build(dict(config(), peers=None, losses={}, teacher=dict(
        config=gfl(), untrained=True)))  # fmt: skip
    with pytest.raises(SetupError, match='for students with `peers`'):
        optimizer(plain)


def test_a_peer_that_breaks_leaves_the_student_alone():
    model = build(losses=mutual(to_b=0, box_to_b=0))
    alone = build(losses=off())
    with torch.no_grad():
        model.peers['b'].model.bbox_head.gfl_cls.weight.fill_(float('nan'))
    for each in (model, alone):
        each.train_step(raw_batch(), optimizer(each))
    assert all(bool(p.isfinite().all()) for p in model.student.parameters())


def test_it_resumes_bit_for_bit_dropout_of_the_peer_included():
    losses = dict(one=dict(type='kd_dense.PixelWise', teacher='b'))
    parts = dict(losses=losses, student=_dropout(segmentation.segmentor()))
    whole = build(**parts)
    wrapper = optimizer(whole)
    whole.train_step(segmentation.raw_batch(), wrapper)
    saved = copy.deepcopy((whole.state_dict(), wrapper.state_dict()))
    again = build(seed=9, **parts)
    other = optimizer(again)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    for model, steps in ((whole, wrapper), (again, other)):
        torch.manual_seed(5)
        model.train_step(segmentation.raw_batch(seed=1), steps)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_step_holds_nothing_of_its_graph():
    model = build()
    model.train_step(raw_batch(), optimizer(model))
    with pytest.raises(RuntimeError, match='has not run in this step'):
        _ = model.live['b'].own_pass


# -- what a config may say wrong -----------------------------------------------------------------

OTHER_IMAGES = dict(gfl(), data_preprocessor=dict(gfl()['data_preprocessor'], mean=[0, 0, 0]))
OTHER_KIND = dict(gfl(), data_preprocessor=dict(type='mmengine.ImgDataPreprocessor'))
UNKNOWN_KIND = dict(gfl(), data_preprocessor=dict(
    type='MultiBranchDataPreprocessor', data_preprocessor=gfl()['data_preprocessor']))  # fmt: skip
WRONG = {
    'choose another name': dict(peers=dict(student=dict(model=gfl()))),
    'it is `dict': dict(peers=dict(b=gfl())),
    "found `model`, `sed`, `seed`. Did you mean 'seed'": dict(
        peers=dict(b=dict(model=gfl(), sed=1))
    ),
    'wants its images normalised otherwise': dict(peers=dict(b=dict(model=OTHER_IMAGES))),
    'peers.b wants its images normalised': dict(peers=dict(b=dict(model=OTHER_KIND))),
    'all students see the same ones': dict(peers=dict(b=dict(model=UNKNOWN_KIND))),
    'peers.b.weight is -1': dict(peers=dict(b=dict(model=gfl(), weight=-1))),
    'a finished teacher, and there is none': dict(inherit=['neck']),
    'would learn from itself': dict(losses=dict(a=dict(SOFT, student='b', teacher='b'))),
    "losses.a.student is 'c'; choose one of 'student', 'b'": dict(
        losses=dict(a=dict(SOFT, student='c', teacher='student'))
    ),
    "losses.a.teacher is 'c'; choose one of 'b'": dict(losses=dict(a=dict(SOFT, teacher='c'))),
}


@pytest.mark.parametrize('words', WRONG)
def test_what_is_wrong_is_said(words):
    with pytest.raises(SetupError) as told:
        build(**WRONG[words])
    assert words in str(told.value)


# -- whole trainings -----------------------------------------------------------------------------


def short(digits_root, work_dir, **changes):
    """4 steps of a mutual training, saved every 2."""
    training_config = training(digits_root, work_dir)
    training_config.train_cfg.update(max_iters=4, val_interval=4)
    training_config.model = config(student=gfl(num_classes=10))
    training_config.optim_wrapper.constructor = CONSTRUCTOR
    training_config.custom_hooks = [
        dict(type='kd_dense.StudentCheckpointHook'),
        dict(type='kd_dense.StudentCheckpointHook', model='b'),
        dict(type='kd_dense.LossBalanceHook', steps=1),
        dict(
            type='kd_dense.WeightScheduleHook',
            schedules={'*': dict(kind='linear', end=3)},
            peers=dict(b=dict(kind='constant', factor=0.5)),
        ),
    ]
    training_config.merge_from_dict(changes)
    return training_config


def test_a_training_resumes_bit_for_bit_and_writes_both_models(digits_root, tmp_path):
    runner = train(short(digits_root, tmp_path / 'whole'))
    assert runner.model.peers['b'].factor == 0.5
    again = short(digits_root, tmp_path / 'again')
    shutil.copytree(tmp_path / 'whole', tmp_path / 'again')
    for file in (tmp_path / 'again').glob('iter_4*'):
        file.unlink()
    (tmp_path / 'again/last_checkpoint').write_text(str(tmp_path / 'again/iter_2.pth'))
    again.resume = True
    train(again)
    one, two = (state(tmp_path / name / 'iter_4.pth') for name in ('whole', 'again'))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(one[part], two[part], part)
    shares = json.loads((tmp_path / 'whole/loss_balance.json').read_text())
    assert set(shares['losses']) == {'from_b', 'box_from_b'} and not shares['warnings']
    # both as plain models, with their configs
    for name, prefix in (('student', 'student.'), ('b', 'peers.b.model.')):
        plain = state(tmp_path / f'whole/iter_4_{name}.pth')
        model = build_model(Config.fromstring(plain['meta']['cfg'], '.py').model)
        model.load_state_dict(plain['state_dict'])
        for key, value in plain['state_dict'].items():
            assert torch.equal(value, one['state_dict'][prefix + key])
        assert 'kd_dense' not in plain['meta']['cfg']


def _rank(rank: int, file: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    model = MMDistributedDataParallel(build(seed=rank), device_ids=None)
    wrapper = optimizer(model)
    for step in range(2):  # a parameter without a gradient would be told of in the second
        model.train_step(raw_batch(seed=2 * step + rank), wrapper)
    torch.save(model.module.state_dict(), f'{out}_{rank}.pth')
    torch.distributed.destroy_process_group()


def test_two_ranks_keep_both_models_the_same(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path / 'group'), str(tmp_path / 'out')), nprocs=2)
    one, two = (torch.load(tmp_path / f'out_{rank}.pth') for rank in range(2))
    alone = build().state_dict()
    for name in dict(build().named_parameters()):
        assert torch.equal(one[name], two[name]), name
    head = 'bbox_head.gfl_cls.weight'
    for name in (f'student.{head}', f'peers.b.model.{head}'):
        assert not torch.equal(one[name], alone[name])


def test_commands_take_the_name_of_a_peer(digits_root, tmp_path):
    distilled = short(digits_root, tmp_path / 'run')
    assert plain_student(distilled).model.bbox_head.num_classes == 10
    assert plain_student(distilled, 'b').model.type == 'GFL'
    assert 'constructor' not in plain_student(distilled, 'b').optim_wrapper
    with pytest.raises(SetupError, match=r"no model 'c' that trains; there is 'student', 'b'"):
        plain_student(distilled, 'c')
    model = build(student=gfl(num_classes=10))
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'a.pth')
    plain = read_plain(distilled, str(tmp_path / 'a.pth'), name='b')
    assert torch.equal(
        plain.model.backbone.conv1.weight, model.peers['b'].model.backbone.conv1.weight
    )
    assert 'not known of a peer' in plain.meta['made_by']['metrics_missing']


# -- shared parts --------------------------------------------------------------------------------

TRUNK = tuple(
    f'backbone.{part}' for part in ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2')
)
SHALLOWER = dict(
    backbone=dict(num_stages=3, out_indices=(0, 1, 2), strides=(1, 2, 2), dilations=(1, 1, 1)),
    neck=dict(in_channels=[8, 16, 32], add_extra_convs='on_output'),
)
EXIT = dict(b=dict(model=gfl(), shares=TRUNK, changes=SHALLOWER, weight=0.7))


def exits(**more) -> torch.nn.Module:
    losses = dict(
        cls=dict(SOFT, student='b', teacher='student'),
        hint=dict(type='kd_dense.FeatureImitation', student='b', teacher='student'),
    )
    return build(**dict(dict(peers=copy.deepcopy(EXIT), losses=losses), **more))


def test_shared_parts_run_once_and_their_batch_norms_count_once():
    model = exits()
    trunk = [model.student.get_submodule(name) for name in TRUNK]
    assert all(
        model.peers['b'].model.get_submodule(n) is m for n, m in zip(TRUNK, trunk, strict=True)
    )
    runs = []
    convolutions = [m for part in trunk for m in part.modules() if isinstance(m, torch.nn.Conv2d)]
    for each in convolutions:
        each.register_forward_hook(lambda *a: runs.append(a[0]) if a[0].training else None)
    plain = copy.deepcopy(model.student)
    batch = raw_batch()
    model.train_step(copy.deepcopy(batch), optimizer(model))
    assert len(runs) == len(convolutions) + 1  # the first one is asked twice, and remembers
    plain.train_step(batch, build_optim_wrapper(plain, copy.deepcopy(OPTIMIZER)))
    for name, value in plain.named_buffers():
        assert torch.equal(value, dict(model.student.named_buffers())[name]), name


def test_the_gradient_of_the_trunk_is_the_sum_of_both():
    model = exits()
    both = [copy.deepcopy(each) for each in (model.student, model.peers['b'].model)]
    data = model.data_preprocessor(raw_batch(), True)
    model.losses['cls'].weight = model.losses['hint'].weight = 0.0
    model.parse_losses(model(**copy.deepcopy(data), mode='loss'))[0].backward()
    for each, weight in zip(both, (1, 0.7), strict=True):
        (model.parse_losses(each(**copy.deepcopy(data), mode='loss'))[0] * weight).backward()
    apart = [gradients(each) for each in both]
    for name, gradient in gradients(model.student).items():
        shared = any(name.startswith(f'{part}.') for part in TRUNK)
        wanted = apart[0][name] + apart[1][name] if shared else apart[0][name]
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6, msg=name)


def test_what_is_learned_from_the_deepest_gives_it_no_gradient_of_its_own():
    model = exits(peers=dict(b=dict(EXIT['b'], weight=0)))
    model.own_weight = 0.0
    data = model.data_preprocessor(raw_batch(), True)
    model.parse_losses(model(**data, mode='loss'))[0].backward()
    moved = {name for name, gradient in gradients(model.student).items() if gradient.any()}
    assert moved and all(name.startswith(TRUNK) for name in moved)


def test_the_student_of_a_shared_trunk_starts_and_is_saved_as_alone():
    model = exits()
    torch.manual_seed(0)
    plain = build_model(gfl())
    plain.init_weights()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[name]), name
    saved = dict(state_dict=copy.deepcopy(model.state_dict()))
    alone = build_model(peer_model(EXIT['b']))
    alone.load_state_dict(model_state(saved, 'b'))  # all of it, the trunk included
    image = torch.rand(1, 3, 96, 96)
    alone.eval(), model.eval()
    for mine, theirs in zip(alone(image), model.peers['b'].model(image), strict=True):
        for one, two in zip(mine, theirs, strict=True):
            assert torch.equal(one, two)


def test_a_shared_weight_has_one_optimizer():
    model = exits()
    held = [
        {id(p) for group in each.param_groups for p in group['params']}
        for each in optimizer(model).optim_wrappers.values()
    ]
    assert not held[0] & held[1]
    assert held[0] | held[1] == {id(p) for p in model.parameters()}
    before = model.student.backbone.conv1.weight.detach().clone()
    model.train_step(raw_batch(), optimizer(model))
    assert not torch.equal(before, model.student.backbone.conv1.weight)


UNSHARED = {
    "'backbone.relu', 'backbone.maxpool' of the student runs before": tuple(
        name for name in TRUNK if name not in ('backbone.relu', 'backbone.maxpool')
    ),
    "shares names 'backbone.layer9'": (*TRUNK, 'backbone.layer9'),
    "'neck', which has other shapes": (*TRUNK, 'neck'),
}


@pytest.mark.parametrize('words', UNSHARED)
def test_parts_that_cannot_be_shared_are_named(words):
    with pytest.raises(SetupError) as told:
        build(peers=dict(b=dict(EXIT['b'], shares=UNSHARED[words])))
    assert words in str(told.value)
