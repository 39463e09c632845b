"""All hooks together in a training on two ranks: it ends, and the first rank alone writes."""

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_dense.hooks import AroundStepHook
from tests.helpers.processes import in_ranks

from .conftest import base_config


class Poison(Hook):
    """One gradient of one rank comes out as NaN in one step; the weights before it are kept."""

    def __init__(self, step: int, on_rank: int) -> None:
        self.step = step
        self.rank = on_rank

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if runner.iter != self.step:
            return
        model = runner.model.module
        self.before = [p.detach().clone() for p in model.parameters()]
        if runner.rank == self.rank:
            weight = model.student.bbox_head.gfl_cls.weight
            self.handle = weight.register_hook(lambda gradient: gradient * float('nan'))

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if runner.iter == self.step:
            assert all(map(torch.equal, runner.model.module.parameters(), self.before))
            if runner.rank == self.rank:
                self.handle.remove()


def train(rank: int, folder: str, root: str, poisoned: int | None = None) -> None:
    """One of two ranks; the second one reports elsewhere what it would write."""
    torch.set_num_threads(1)
    os.environ |= {'LOCAL_RANK': str(rank), 'RANK': str(rank), 'WORLD_SIZE': '2'}
    torch.distributed.init_process_group('gloo', f'file://{folder}/group', rank=rank, world_size=2)
    config = base_config(Path(root), Path(folder) / f'rank{rank}')
    config |= dict(
        launcher='pytorch',
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
        ),
        custom_hooks=[
            dict(type='kd_dense.StudentCheckpointHook'),
            dict(type='kd_dense.LossBalanceHook', steps=1),
            dict(type='kd_dense.DistillationPictureHook', num_images=2),
            dict(
                type='kd_dense.WeightScheduleHook',
                schedules={'*': dict(kind='linear', end=4, start_factor=0.5)},
            ),
        ],
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2),
    )
    runner = Runner.from_cfg(Config(config))
    runner.register_hook(AroundStepHook())
    if poisoned is not None:
        runner.register_hook(Poison(poisoned, on_rank=1))
    runner.train()
    guard = runner.model.module.step_guard
    assert guard.skipped.counts == ({} if poisoned is None else {'student': 1})
    torch.save(runner.model.module.state_dict(), f'{folder}/weights{rank}.pth')
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_first_rank_alone_writes_and_both_stay_together(tmp_path, digits_root):
    in_ranks(train, str(tmp_path), str(digits_root))
    first = tmp_path / 'rank0'
    assert (first / 'pictures' / 'val_iter_2.png').is_file()
    assert (first / 'iter_2_student.pth').is_file()
    assert json.loads((first / 'loss_balance.json').read_text())['losses']['ld']['factor'] == 0.5
    second = {path.name for path in (tmp_path / 'rank1').rglob('*') if path.is_file()}
    assert not any(name.endswith(('.pth', '.json', '.png')) for name in second)
    one, two = (torch.load(tmp_path / f'weights{rank}.pth') for rank in (0, 1))
    for name, value in one.items():
        if 'running' not in name:  # batch statistics are each rank's own
            assert torch.equal(value, two[name]), name


@pytest.mark.slow
def test_a_step_that_is_not_finite_on_one_rank_is_left_out_on_both(tmp_path, digits_root):
    in_ranks(train, str(tmp_path), str(digits_root), 0)
    one, two = (torch.load(tmp_path / f'weights{rank}.pth') for rank in (0, 1))
    for name, value in one.items():
        if 'running' not in name:
            assert torch.equal(value, two[name]) and value.isfinite().all(), name
