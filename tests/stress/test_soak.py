"""Twenty thousand steps on tiny images: memory and open files stay as they are.

A detector, and a segmentor with dropout and a discriminator, with the hooks of the shipped recipes,
validations and checkpoints. `make stress` runs it.

MMEngine keeps each logged number for the length of a training, up to a million of each, and copies
them all into each checkpoint. Here it keeps a thousand of each, so that what grows is ours.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from kd_dense.registry import HOOKS
from tests.helpers.trainings import shapes_config, training

STEPS = 20_000
SETTLED = 5_000  # steps until the first validations, buffers and workers' caches are there
GROWTH = 16  # MiB that may come after that, a thousandth of a MiB per step
EVERY = 500
KEPT = 1_000  # numbers of each scalar


@HOOKS.register_module(name='Meter')
class Meter(Hook):
    """Notes memory and open files every few hundred steps."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, float, int]] = []

    def after_train_iter(self, runner: Runner, *_: object, **__: object) -> None:
        """Note (step, MiB resident, open files)."""
        if self.every_n_train_iters(runner, EVERY):
            gc.collect()
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            resident = pages * os.sysconf('SC_PAGE_SIZE') / 2**20
            self.notes.append((runner.iter + 1, resident, len(os.listdir('/proc/self/fd'))))


def detector(digits_root: Path, work_dir: Path) -> Config:
    config = training(digits_root, work_dir)
    for pipeline in (loader.dataset.pipeline for loader in (config.train_dataloader,)):
        pipeline.insert(2, dict(type='Resize', scale=(64, 64), keep_ratio=True))
    return config


def segmentor(digits_root: Path, work_dir: Path) -> Config:
    config = Config(shapes_config(work_dir.parent / 'shapes', work_dir))
    config.model.student.decode_head.dropout_ratio = 0.1
    config.custom_hooks = [
        dict(type='kd_dense.StudentCheckpointHook'),
        dict(type='kd_dense.RandomStateHook'),
    ]
    config.log_level = 'WARNING'
    return config


@pytest.mark.parametrize('make', [detector, segmentor])
def test_memory_and_open_files_do_not_grow(make, digits_root, tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryBuffer.__init__, '__defaults__', ((), (), KEPT))
    config = make(digits_root, tmp_path / 'soak')
    config.train_cfg.update(max_iters=STEPS, val_interval=2_000)
    config.train_dataloader.update(batch_size=2, num_workers=0)
    config.default_hooks.checkpoint.update(interval=1_000, max_keep_ckpts=2)
    config.experiment_name = f'soak_{make.__name__}'
    runner = Runner.from_cfg(config)
    meter = Meter()
    runner.register_hook(meter)
    runner.train()
    settled = [note for note in meter.notes if note[0] >= SETTLED]
    first, resident, files = zip(*settled, strict=True)
    print(f'\n{make.__name__}: MiB {[round(r) for r in resident]}, open files {files}')
    assert first[-1] == STEPS
    assert max(resident) - resident[0] < GROWTH
    assert max(files) - files[0] <= 1
