"""The adversarial game: who trains whom, through real trainings, ranks, accumulation and NaN."""

import copy
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, build_optim_wrapper

from kd_dense import MODELS
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.losses.adversarial.optim import (
    AdversarialOptimWrapper,
    AdversarialOptimWrapperConstructor,
)
from tests.helpers.processes import in_ranks
from tests.helpers.segmentation import distiller, raw_batch, segmentor
from tests.helpers.trainings import assert_same, short_training, state, train_apart

SMALL = (8, 8, 16, 16)
CONSTRUCTOR = 'kd_dense.AdversarialOptimWrapperConstructor'


def losses(**holistic) -> dict:
    return dict(
        pixel=dict(type='kd_dense.PixelWise'),
        pair=dict(type='kd_dense.PairWise', pooling_scale=0.2),
        cwd=dict(type='kd_dense.ChannelWise', stages=('head',)),
        holistic=dict(type='kd_dense.Holistic', width=SMALL) | holistic,
    )


def optimizers(accumulate: int = 1, lr: float = 0.01, lr_critic: float = 4e-3) -> dict:
    part = dict(type='OptimWrapper', accumulative_counts=accumulate)
    return dict(
        constructor=CONSTRUCTOR,
        student=part | dict(optimizer=dict(type='SGD', lr=lr, momentum=0.9)),
        discriminator=part | dict(optimizer=dict(type='Adam', lr=lr_critic, betas=(0.9, 0.99))),
    )


def game(seed: int = 0, **choices) -> tuple[torch.nn.Module, AdversarialOptimWrapper]:
    """A distiller in training and its optimizers."""
    kept = {k: choices.pop(k) for k in ('accumulate', 'lr', 'lr_critic') if k in choices}
    torch.manual_seed(seed)
    model = MODELS.build(distiller(losses(**choices)))
    model.init_weights()
    return model.train(), build_optim_wrapper(model, optimizers(**kept))


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if not p.equal(before[name])}


# -- one step ----------------------------------------------------------------------------------


def test_each_optimizer_holds_its_side_and_none_the_teacher():
    model, wrapper = game()
    held = {
        side: {id(p) for g in part.optimizer.param_groups for p in g['params']}
        for side, part in wrapper.items()
    }
    critic = {id(p) for p in model.losses.holistic.parameters()}
    everything = {id(p) for p in model.parameters()}
    assert held['discriminator'] == critic
    assert held['student'] == everything - critic
    assert {id(p) for p in model.losses.cwd.parameters()} <= held['student']
    assert not {id(p) for p in model.teacher.model.parameters()} & everything


def test_a_step_moves_both_sides_and_tells_of_the_game():
    model, wrapper = game()
    before = weights(model)
    logs = model.train_step(raw_batch(), wrapper)
    names = moved(before, model)
    assert {'student', 'losses'} == {name.split('.')[0] for name in names}
    assert any(name.startswith('losses.holistic.discriminator.blocks.0') for name in names)
    assert {'loss_kd_pixel', 'loss_kd_pair', 'loss_kd_cwd', 'loss_kd_holistic'} <= set(logs)
    told = MessageHub.get_current_instance().log_scalars
    assert {'train/discriminator_gap/holistic', 'train/discriminator_penalty/holistic'} <= set(told)


def test_the_students_step_is_the_one_it_would_make_with_a_critic_that_stands_still():
    model, wrapper = game(limit=None)
    plain, _ = game(limit=None)
    plain.losses.holistic.has_optimizer = True
    model.train_step(raw_batch(), wrapper)
    data = plain.data_preprocessor(raw_batch(), True)
    total, _ = plain.parse_losses(plain(**data, mode='loss'))
    total.backward()
    torch.optim.SGD(plain.student.parameters(), lr=0.01, momentum=0.9).step()
    assert_same(dict(plain.student.state_dict()), dict(model.student.state_dict()))


def test_the_critics_step_is_that_of_its_loss_by_hand():
    model, wrapper = game()
    other, _ = game()
    model.train_step(raw_batch(), wrapper)
    data = other.data_preprocessor(raw_batch(), True)
    other.losses.holistic.has_optimizer = True
    other(**data, mode='loss')
    critic = other.losses.holistic
    optimizer = torch.optim.Adam(critic.parameters(), lr=4e-3, betas=(0.9, 0.99))
    critic.own_losses(other.shown['holistic'])['total'].backward()
    optimizer.step()
    assert_same(dict(critic.state_dict()), dict(model.losses.holistic.state_dict()))


def test_the_gap_grows_while_only_the_critic_trains():
    model, wrapper = game(lr=0.0, weight=1e-6)
    gaps = []
    for _ in range(60):
        model.train_step(raw_batch(), wrapper)
        told = MessageHub.get_current_instance().get_scalar('train/discriminator_gap/holistic')
        gaps.append(told.current())
    assert gaps[-1] > 0 and gaps[-1] > 10 * abs(gaps[0])
    assert all(later > earlier for earlier, later in zip(gaps[9::10], gaps[19::10], strict=False))


def test_several_turns_of_the_critic_for_one_of_the_student():
    model, wrapper = game(steps=3)
    model.train_step(raw_batch(), wrapper)
    assert int(model.losses.holistic.drawn) == 3
    assert {s['step'].item() for s in wrapper['discriminator'].optimizer.state.values()} == {3}


def test_a_weight_of_zero_lets_the_critic_rest_and_trains_as_without_it():
    model, wrapper = game(weight=0)
    before = weights(model.losses.holistic)
    torch.manual_seed(0)
    without = losses()
    del without['holistic']
    plain = MODELS.build(distiller(without))
    plain.init_weights()
    optimizer = OptimWrapper(torch.optim.SGD(plain.train().parameters(), lr=0.01, momentum=0.9))
    for seed in range(2):
        model.train_step(raw_batch(seed=seed), wrapper)
        plain.train_step(raw_batch(seed=seed), optimizer)
    assert not moved(before, model.losses.holistic)
    assert_same(dict(plain.student.state_dict()), dict(model.student.state_dict()))


def test_with_all_weights_at_zero_the_student_trains_as_without_us():
    model, wrapper = game(weight=0)
    for loss in model.losses.values():
        loss.weight = 0
    torch.manual_seed(0)
    plain = build_model(read_model_config(segmentor(), 'student'))
    plain.init_weights()
    optimizer = OptimWrapper(torch.optim.SGD(plain.train().parameters(), lr=0.01, momentum=0.9))
    for seed in range(2):
        model.train_step(raw_batch(seed=seed), wrapper)
        plain.train_step(raw_batch(seed=seed), optimizer)
    assert_same(dict(plain.state_dict()), dict(model.student.state_dict()))


def test_accumulated_gradients_move_both_sides_every_second_step():
    model, wrapper = game(accumulate=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = weights(model)
    model.train_step(raw_batch(seed=0), wrapper)
    assert not moved(before, model)
    model.train_step(raw_batch(seed=1), wrapper)
    assert {name.split('.')[0] for name in moved(before, model)} == {'student', 'losses'}


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What is logged."""
    lines: list[str] = []
    monkeypatch.setattr('kd_dense.nonfinite.print_log', lambda text, *_: lines.append(text))
    return lines


# -- what goes wrong ---------------------------------------------------------------------------


def test_a_critic_that_is_not_finite_is_left_as_it_is_and_reported(told):
    model, wrapper = game(penalty=float('inf'))
    before = weights(model)
    model.train_step(raw_batch(), wrapper)
    assert {name.split('.')[0] for name in moved(before, model)} == {'student', 'losses'}
    assert not any('holistic' in name for name in moved(before, model))  # the student goes on
    assert model.step_guard.skipped.counts == {'discriminator': 1}
    assert 'A step of the discriminator was left out' in told[-1] and '(1 by now)' in told[-1]


def test_a_student_whose_own_loss_is_not_finite_is_left_as_it_is(told):
    model, wrapper = game()
    model.train_step(raw_batch(), wrapper)
    before, critic = weights(model.student), weights(model.losses.holistic)
    model.student.decode_head.loss_decode.loss_weight = float('nan')
    model.student.decode_head.loss_decode._loss_name = 'loss_ce'
    model.train_step(raw_batch(), wrapper)
    assert not moved(before, model.student)
    assert all(p.isfinite().all() for p in model.parameters())
    assert moved(critic, model.losses.holistic)
    assert 'A step of the student was left out' in told[-1]
    assert model.step_guard.skipped.counts['student'] == 1


def test_a_distillation_loss_that_is_not_finite_is_left_out_and_reported(told):
    model, wrapper = game()
    model.losses.pair.weight = float('inf')
    before = weights(model.student)
    for _ in range(3):
        logs = model.train_step(raw_batch(), wrapper)
    assert logs['loss_kd_pair'].item() == 0 and logs['loss'].isfinite()
    assert moved(before, model.student) and all(p.isfinite().all() for p in model.parameters())
    warnings = [line for line in told if 'loss_kd_pair is not finite (inf)' in line]
    assert ['(1 by now)' in warnings[0], '(2 by now)' in warnings[1], len(warnings)] == [1, 1, 2]
    counted = MessageHub.get_current_instance().get_scalar('train/kd_left_out/pair')
    assert counted.current() == 3


def test_one_optimizer_for_both_is_refused():
    model, _ = game()
    model.losses.holistic.has_optimizer = False
    one = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01)))
    with pytest.raises(SetupError, match='The discriminator of Holistic has no optimizer'):
        model.train_step(raw_batch(), one)


def test_other_parts_than_two_are_refused():
    config = optimizers()
    del config['discriminator'], config['constructor']
    with pytest.raises(SetupError, match=r"has two optimizers: .*Found \['student'\]"):
        AdversarialOptimWrapperConstructor(config)


def test_a_model_without_a_discriminator_is_refused():
    model = MODELS.build(distiller())
    with pytest.raises(SetupError, match='No loss of this Distiller has a discriminator'):
        build_optim_wrapper(model, optimizers())


# -- real trainings ----------------------------------------------------------------------------


def training(digits_root: Path, work_dir: Path) -> Config:
    """A short adversarial training on digits, of a student with dropout."""
    os.environ['DIGITS_SEG_ROOT'] = str(digits_root)
    config = short_training('digits/structured_pspnet_r18-quarter_digits-seg.py', work_dir)
    config.model.losses.holistic.width = SMALL
    pipeline = config.train_dataloader.dataset.pipeline
    pipeline.insert(-1, dict(type='RandomCrop', crop_size=(96, 96)))
    student = segmentor(classes=11)
    student['decode_head']['dropout_ratio'] = 0.1
    config.model.student = student
    config.model.teacher = dict(config=segmentor(width=16, classes=11), untrained=True)
    return config


def test_a_game_killed_half_way_resumes_bit_for_bit(digits_root, tmp_path):
    whole, killed = (training(digits_root, tmp_path / name) for name in ('whole', 'killed'))
    for config in (whole, killed):  # the checkpoint to go on from is of a step that validates
        config.train_cfg.val_interval = 4
        config.default_hooks.checkpoint.interval = 4
    assert train_apart(whole).returncode == 0
    hooks = copy.copy(killed.custom_hooks)
    killed.custom_hooks.append(dict(type='kd_dense.KillAt', step=5))
    assert train_apart(killed).returncode == -9
    assert not (tmp_path / 'killed' / 'iter_6.pth').exists()
    killed.custom_hooks = hooks
    resumed = train_apart(killed, '--resume')
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    a, b = state(tmp_path / 'whole' / 'iter_6.pth'), state(tmp_path / 'killed' / 'iter_6.pth')
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(a[part], b[part], part)
    assert set(a['optimizer']) == {'student', 'discriminator'} == set(a['param_schedulers'])
    assert int(a['state_dict']['losses.holistic.drawn']) == 6
    plain = build_model(read_model_config(segmentor(classes=11), 'student'))
    plain.load_state_dict(state(tmp_path / 'killed' / 'iter_6_student.pth')['state_dict'])


@pytest.mark.slow
def test_two_ranks_play_one_game(digits_root, tmp_path):
    config = training(digits_root, tmp_path / 'out')
    config.train_cfg.max_iters = 3
    config.default_hooks.checkpoint.interval = 3
    config.custom_hooks.append(dict(type='kd_dense.SaveOfEachRank'))
    done = train_apart(config, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / 'out' / f'rank_{rank}.pt') for rank in range(2))
    moving = ('running_mean', 'running_var')  # batch statistics are each rank's own
    kept = [k for k in first if not k.endswith(moving)]
    assert any('discriminator' in k for k in kept) and any('student' in k for k in kept)
    assert_same({k: first[k] for k in kept}, {k: second[k] for k in kept})


def _judge(rank: int, file: str, out: str) -> None:
    """One of two ranks: its half of the batch, one step of both sides."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    critic = _critic_step(slice(rank, rank + 1))
    if rank == 0:
        torch.save(critic, out)
    torch.distributed.destroy_process_group()


def _critic_step(part: slice) -> dict[str, torch.Tensor]:
    """The gradients with which the critic took its step."""
    model, wrapper = game(penalty=0.0)  # the points of the penalty are each rank's own
    data = model.data_preprocessor(raw_batch(((64, 64), (64, 64))), True)
    for batch_norm in model.student.modules():  # whose statistics are each rank's own
        if isinstance(batch_norm, torch.nn.BatchNorm2d):
            batch_norm.eval()
    model.loss(data['inputs'][part], data['data_samples'][part])
    seen = {}
    critic = model.losses.holistic.discriminator
    optimizer = wrapper['discriminator'].optimizer
    optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in critic.named_parameters()})
    )
    loss = sum(p.sum() for p in model.student.parameters()) * 0
    wrapper.update_params(loss)
    return seen


@pytest.mark.slow
def test_two_ranks_of_one_image_teach_the_critic_as_one_of_two(tmp_path):
    out = tmp_path / 'critic.pth'
    in_ranks(_judge, str(tmp_path / 'group'), str(out))
    alone, two = _critic_step(slice(0, 2)), torch.load(out)
    assert alone.keys() == two.keys() and len(alone) > 8
    for name, gradient in alone.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def _overflow_on_one_rank(rank: int, file: str, out: str) -> None:
    """One of two ranks, data-parallel: the second one's logits overflow in the second step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    model, _ = game()
    parallel = MMDistributedDataParallel(model, broadcast_buffers=False)
    wrapper = build_optim_wrapper(parallel, optimizers())
    steps = []
    for step in range(3):
        overflows = rank == 1 and step == 1
        handle = model.student.decode_head.conv_seg.register_forward_hook(
            lambda module, inputs, output, on=overflows: (
                output.index_fill(2, torch.tensor([3]), float('inf')) if on else output
            )
        )
        before = weights(model)
        parallel.train_step(raw_batch(seed=2 * step + rank), wrapper)
        steps.append({name.split('.')[0] for name in moved(before, model)})
        handle.remove()
    counts = dict(model.step_guard.skipped.counts)
    torch.save(dict(weights=weights(model), steps=steps, counts=counts), f'{out}{rank}')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_what_overflows_on_one_rank_is_left_out_on_both_and_the_game_goes_on(tmp_path):
    out = tmp_path / 'rank'
    in_ranks(_overflow_on_one_rank, str(tmp_path / 'group'), str(out))
    first, second = (torch.load(f'{out}{rank}') for rank in range(2))
    assert_same(first['weights'], second['weights'])
    assert all(p.isfinite().all() for p in first['weights'].values())
    for seen in (first, second):
        assert seen['steps'] == [{'student', 'losses'}, set(), {'student', 'losses'}]
        assert seen['counts'] == {'student': 1, 'discriminator': 1}
