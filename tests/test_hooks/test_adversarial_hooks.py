"""The hooks at work on segmentors and on an adversarial game."""

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from kd_dense.hosts import build_model, read_model_config
from tests.helpers.processes import in_ranks
from tests.helpers.trainings import shapes_config

NO_SAVING = dict(checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False))
BALANCE = dict(type='kd_dense.LossBalanceHook', steps=3)


def test_measuring_the_balance_leaves_the_game_the_same_to_the_bit(segmenting, tmp_path):
    states = []
    for hooks in ([], [BALANCE]):
        runner = segmenting(custom_hooks=hooks, default_hooks=NO_SAVING)
        runner.train()
        states.append(runner.model.state_dict())
    assert 'losses.holistic.drawn' in states[0]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    found = json.loads((tmp_path / 'work' / 'loss_balance.json').read_text())
    assert set(found['losses']) == {'pixel', 'pair', 'holistic'}
    rows = [found['student'], *found['losses'].values()]
    assert all(row['gradient_norm'] > 0 for row in rows)
    assert sum(row['share'] for row in rows) == pytest.approx(1)


def test_the_plain_student_trains_on_by_its_own_config_with_its_own_optimizer(segmenting, tmp_path):
    schedule = [dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=2)]
    segmenting(
        validate=True,
        custom_hooks=[dict(type='kd_dense.StudentCheckpointHook')],
        param_scheduler=dict(student=schedule, discriminator=schedule),
    ).train()
    plain = torch.load(tmp_path / 'work' / 'iter_4_student.pth', weights_only=False)
    assert 'kd_dense' not in plain['meta']['cfg']
    config = Config.fromstring(plain['meta']['cfg'], '.py')
    assert config.optim_wrapper == dict(optimizer=dict(type='AdamW', lr=0.01))
    assert config.param_scheduler == schedule
    model = build_model(read_model_config(config.to_dict(), 'student'))
    model.load_state_dict(plain['state_dict'], strict=True)
    config.work_dir, config.experiment_name = str(tmp_path / 'plain'), 'plain'
    config.load_from = str(tmp_path / 'work' / 'iter_4_student.pth')
    Runner.from_cfg(config).train()


def test_a_stopped_game_lets_the_discriminator_rest_and_a_later_one_begins(segmenting):
    late = dict(kind='constant', end=2, factor=0)
    for schedule, steps in (
        (dict(kind='stop', begin=2), [1, 2, 2, 2]),
        ([late, dict(kind='constant', begin=2)], [0, 0, 1, 2]),
    ):
        hook = dict(type='kd_dense.WeightScheduleHook', schedules=dict(holistic=schedule))
        runner = segmenting(custom_hooks=[hook], default_hooks=NO_SAVING)
        seen = []
        original = runner.train_loop.run_iter

        def run_iter(batch, original=original, runner=runner, seen=seen):
            original(batch)
            seen.append(int(runner.model.losses['holistic'].drawn))

        runner.train_loop.run_iter = run_iter
        runner.train()
        assert seen == steps


def train(rank: int, folder: str) -> None:
    """One of two ranks; the second one reports elsewhere what it would write."""
    torch.set_num_threads(1)
    os.environ |= {'LOCAL_RANK': str(rank), 'RANK': str(rank), 'WORLD_SIZE': '2'}
    torch.distributed.init_process_group('gloo', f'file://{folder}/group', rank=rank, world_size=2)
    config = shapes_config(Path(folder) / f'shapes{rank}', Path(folder) / f'rank{rank}')
    config |= dict(
        launcher='pytorch',
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
        ),
        custom_hooks=[
            dict(type='kd_dense.StudentCheckpointHook'),
            dict(type='kd_dense.LossBalanceHook', steps=1),
            dict(type='kd_dense.DistillationPictureHook', num_images=2),
        ],
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2),
    )
    runner = Runner.from_cfg(Config(config))
    runner.train()
    torch.save(runner.model.module.state_dict(), f'{folder}/weights{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_play_one_game_and_the_first_alone_writes(tmp_path):
    in_ranks(train, str(tmp_path))
    first = tmp_path / 'rank0'
    assert (first / 'pictures' / 'val_iter_2.png').is_file()
    assert (first / 'iter_2_student.pth').is_file()
    assert 'holistic' in json.loads((first / 'loss_balance.json').read_text())['losses']
    second = {path.name for path in (tmp_path / 'rank1').rglob('*') if path.is_file()}
    assert not any(name.endswith(('.pth', '.json', '.png')) for name in second)
    one, two = (torch.load(tmp_path / f'weights{rank}.pth') for rank in (0, 1))
    for name, value in one.items():
        if 'running' not in name:  # batch statistics are each rank's own
            assert torch.equal(value, two[name]), name
