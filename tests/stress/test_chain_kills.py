"""A chain that is killed ten times, with its trainings or without them, ends as one that was not.

`make stress` runs it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_dense.datasets import make_digits
from tests.helpers.trainings import ROOT, assert_same, state

KILLS = 10
STEPS = 40
CHAIN = """
folder = '{folder}'
_options = {{
    'train_dataloader.batch_size': 4,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'default_hooks.checkpoint.interval': 5,
    'train_cfg.max_iters': {steps},
    'train_cfg.val_interval': 10,
    'log_level': 'WARNING',
}}
stages = dict(
    first=dict(config='configs/digits/gfl_r18-quarter_digits.py', seed=0, options=_options),
    second=dict(
        config='configs/digits/ld_gfl_r18-quarter_digits.py',
        teacher='{{first}}',
        seed=1,
        options=_options,
    ),
    third=dict(
        config='configs/digits/gfl_r18-quarter_digits.py',
        recipe='pkd',
        teacher='{{second}}',
        seed=2,
        options=_options,
    ),
)
"""


def start(file: Path) -> subprocess.Popen:
    """Begin a chain in a process group of its own, to which its trainings belong."""
    with open(f'{file}.log', 'a') as log:
        return subprocess.Popen(
            [sys.executable, 'tools/chain.py', str(file), '--no-report'],
            cwd=ROOT,
            env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@pytest.fixture
def data(tmp_path, monkeypatch) -> None:
    """The digits, named by the variable that the configs read."""
    folder = make_digits(tmp_path / 'data', train=24, val=6, progress=False)
    monkeypatch.setenv('DIGITS_ROOT', str(folder))


def write(folder: Path) -> Path:
    """The chain file of a folder, beside it."""
    file = Path(f'{folder}.py')
    file.write_text(CHAIN.format(folder=folder, steps=STEPS))
    return file


def kill(process: subprocess.Popen, alone: bool) -> None:
    """End a chain the hard way, and its trainings with it unless it is to be alone."""
    if alone:
        os.kill(process.pid, signal.SIGKILL)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_equal(ours: Path, theirs: Path) -> None:
    """What both chains end with is the same to the bit, and nothing was trained twice."""
    for stage in ('first', 'second', 'third'):
        left, right = (state(folder / stage / f'iter_{STEPS}.pth') for folder in (ours, theirs))
        for part in ('state_dict', 'optimizer', 'param_schedulers'):
            assert_same(left[part], right[part], f'{stage} {part}')
    assert not list(ours.glob('*.old*'))


def test_chains_killed_ten_times_end_as_if_nothing_had_been(data, tmp_path):
    whole, begun = tmp_path / 'whole', time.monotonic()
    assert start(write(whole)).wait() == 0, Path(f'{whole}.py.log').read_text()[-3000:]
    usual = time.monotonic() - begun
    chance, kills, chains, begun = random.Random(0), {True: 0, False: 0}, 0, time.monotonic()
    while sum(kills.values()) < KILLS:
        chains += 1
        broken = tmp_path / f'broken{chains}'
        log = Path(f'{broken}.py.log')
        while True:
            process = start(write(broken))
            try:
                process.wait(
                    chance.uniform(0.1, 0.5) * usual if sum(kills.values()) < KILLS else None
                )
                break
            except subprocess.TimeoutExpired:
                alone = bool(sum(kills.values()) % 2)
                kill(process, alone)
                kills[alone] += 1
        assert process.returncode == 0, log.read_text()[-3000:]
        assert_equal(broken, whole)
    print(
        f'\n{kills[False]} kills of all, {kills[True]} of the chain alone, {chains} chains of '
        f'{usual:.0f} s, {time.monotonic() - begun:.0f} s in all; equal to the bit'
    )
