"""Trainings that are killed ten times, at random moments and around checkpoints, and resumed.

What they end with equals the uninterrupted training to the bit: weights, optimizer, plain student.
The shipped digits configs, shortened: a detector, and a segmentor with dropout and a discriminator;
each with a data worker and as shipped, and without one and validating often.
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
from typing import Any, NamedTuple

import pytest
from mmengine.config import Config

from kd_dense.datasets import SceneSettings, make_digits
from kd_dense.hosts.checkpoints import checkpoints_of
from tests.helpers.trainings import ROOT, assert_same, state

KILLS = 10
STEPS = 60
PATIENCE = 600.0  # seconds that a start may take on a busy machine
CONFIGS = {
    'detector': 'digits/ld_gfl_r18-quarter_digits.py',
    'segmentor': 'digits/structured_pspnet_r18-quarter_digits-seg.py',
}


class Series(NamedTuple):
    """One training that is killed again and again.

    Attributes:
        host: key of :data:`CONFIGS`.
        workers: of the training's data.
        validates_every: steps.
    """

    host: str
    workers: int
    validates_every: int


SERIES = {
    'detector-as-shipped': Series('detector', 1, 20),
    'detector-validating': Series('detector', 0, 5),
    'segmentor-as-shipped': Series('segmentor', 1, 20),
    'segmentor-validating': Series('segmentor', 0, 5),
}


def config_of(series: Series, work_dir: Path) -> Path:
    """The shipped config with few and small steps, written beside its work directory."""
    config = Config.fromfile(ROOT / 'configs' / CONFIGS[series.host])
    config.model.teacher.pop('checkpoint')
    changes: dict[str, Any] = {
        'work_dir': str(work_dir),
        'model.teacher.untrained': True,
        'train_cfg.max_iters': STEPS,
        'train_cfg.val_interval': series.validates_every,
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': series.workers,
        'train_dataloader.persistent_workers': series.workers > 0,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'default_hooks.checkpoint.interval': 5,
        'randomness.seed': 0,
        'log_level': 'WARNING',
    }
    config.merge_from_dict(changes)
    path = Path(f'{work_dir}.py')
    config.dump(path)
    return path


def start(config: Path, work_dir: Path, *options: str) -> subprocess.Popen:
    """Begin a training in a process group of its own."""
    with open(f'{work_dir}.log', 'a') as log:
        return subprocess.Popen(
            [sys.executable, 'tools/train.py', str(config), '--work-dir', str(work_dir), *options],
            cwd=ROOT,
            env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for(what: Any, process: subprocess.Popen, seconds: float = PATIENCE) -> bool:
    """Wait until something is true; False where the process has ended or time is up before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if what():
            return True
        time.sleep(0.0005)
    return False


def kill(process: subprocess.Popen) -> None:
    """End a training and its workers the hard way."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def files(work_dir: Path) -> dict[Path, int]:
    """The checkpoints of now, whole or in the making, with their times."""
    found = [*work_dir.glob('iter_*'), *work_dir.glob('.iter_*')]
    times = {}
    for path in found:
        try:
            times[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return times


def logs(work_dir: Path) -> set[Path]:
    """Folders of the runs, the newest of which begins when its training does."""
    return set(work_dir.glob('*/vis_data'))


def last(work_dir: Path) -> Path:
    """The checkpoint of the last step."""
    return work_dir / f'iter_{STEPS}.pth'


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> None:
    """Both forms of the digits, named by the variables that the configs read."""
    root = tmp_path_factory.mktemp('data')
    roots = {'DIGITS_ROOT': None, 'DIGITS_SEG_ROOT': SceneSettings(size=96)}
    before = dict(os.environ)
    for name, settings in roots.items():
        folder = make_digits(root / name, settings, train=24, val=6, progress=False)
        os.environ[name] = str(folder)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize('name', SERIES)
def test_a_training_killed_ten_times_ends_as_if_nothing_had_been(name, data, tmp_path):
    series, chance = SERIES[name], random.Random(name)
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    assert start(config_of(series, whole), whole).wait() == 0, Path(f'{whole}.log').read_text()
    config = config_of(series, broken)
    begun = time.monotonic()
    kills = {'at a file': 0, 'at random': 0}
    while sum(kills.values()) < KILLS:
        seen, runs = files(broken), logs(broken)
        process = start(config, broken, *(['--resume'] if broken.exists() else []))
        assert wait_for(lambda runs=runs: logs(broken) - runs, process), log_of(broken)
        if sum(kills.values()) % 2:
            new = wait_for(lambda seen=seen: files(broken) != seen, process)
            time.sleep(chance.uniform(0.0, 0.006))
            how = 'at a file'
        else:
            new = not wait_for(lambda: False, process, chance.uniform(0.0, 2.0))
            how = 'at random'
        if process.poll() is None and new:
            kill(process)
            kills[how] += 1
        elif last(broken).exists():
            raise AssertionError(f'the series ran out of steps after {kills}')
        else:
            raise AssertionError(log_of(broken))
    assert start(config, broken, '--resume').wait() == 0, log_of(broken)
    ours, theirs = state(last(broken)), state(last(whole))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ours[part], theirs[part], part)
    students = [folder / f'iter_{STEPS}_student.pth' for folder in (broken, whole)]
    assert_same(*(state(path)['state_dict'] for path in students), 'student')
    assert not list(broken.glob('.*.part')) and checkpoints_of(broken)[0] == last(broken)
    print(f'\n{name}: {kills}, {time.monotonic() - begun:.0f} s; equal to the bit')


def log_of(work_dir: Path) -> str:
    """The end of what a training printed."""
    return Path(f'{work_dir}.log').read_text()[-3000:]
