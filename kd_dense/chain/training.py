"""A job in training, in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config

from ..files import written_whole
from ..hosts.configs import with_readable_floats
from .job import Job
from .notes import NOTE, write_note

LOG = 'train.log'
# rows of a teacher that is stored and of one that runs then differ by rounding alone
IN_FULL = ('--store-dtype', 'float32', '--store-views')
PROGRESS = re.compile(r'\(train\)[^\n]*?\[\s*(\d+/\d+)\].*?eta: ([^\n]*?)\s\s')


@dataclass
class Means:
    """How trainings are run.

    Attributes:
        side_by_side: how many at once.
        gpus: of each training; with a launcher, one rank for each.
        launcher: ``'none'``; ``'pytorch'``, torchrun on this machine; or ``'slurm'``, srun.
        options: of ``kd-dense train``, for all.
    """

    side_by_side: int = 1
    gpus: int = 1
    launcher: str = 'none'
    options: Sequence[str] = ()

    def command(self, job: Job) -> list[str]:
        """The command that trains a job, or goes on with it."""
        start = [sys.executable, '-m']
        if self.launcher == 'pytorch':
            # a rendezvous of its own for each training, on a free port
            start += ['torch.distributed.run', '--standalone', '--nproc_per_node', str(self.gpus)]
            start += ['-m']
        if self.launcher == 'slurm':
            start = [*self._srun(job), *start]
        launched = ['--launcher', self.launcher] if self.launcher != 'none' else []
        where = [str(job.config_file), '--work-dir', str(job.folder), *launched]
        if job.evaluates:
            options = [option for option in self.options if option != '--amp']
            tested = [job.filled(each) for each in job.evaluates]
            if job.class_bias:
                name, shift = job.class_bias
                how = ['--class', name, f'--shift={shift}', '--measure', '--out', str(job.folder)]
                alone = [sys.executable, '-m', 'kd_dense', 'class-bias', where[0], *tested]
                return [*alone, *how, *options]
            return [*start, 'kd_dense', 'test', where[0], *tested, *where[1:], *options]
        stored = ['--stored', str(job.store), *IN_FULL, str(job.stored)] if job.stored else []
        return [*start, 'kd_dense', 'train', *where, '--resume', *stored, *self.options]

    def _srun(self, job: Job) -> list[str]:
        """The start of a command that Slurm runs, with a task for each GPU."""
        per_node = min(self.gpus, int(os.environ.get('GPUS_PER_NODE', 8)))
        return [
            'srun',
            f'--job-name={job.stage.name}',
            f'--ntasks={self.gpus}',
            f'--ntasks-per-node={per_node}',
            f'--gres=gpu:{per_node}',
            f'--cpus-per-task={os.environ.get("CPUS_PER_TASK", 5)}',
            '--kill-on-bad-exit=1',
            *shlex.split(os.environ.get('SRUN_ARGS', '')),
        ]

    def environment(self, slot: int) -> dict[str, str]:
        """The variables of a training in one of the places side by side."""
        found = {'PYTHONWARNINGS': 'ignore', **os.environ}
        if self.launcher == 'slurm':  # which shares out cores and GPUs itself
            return found | dict(MASTER_PORT=str(int(os.environ.get('PORT', 29500)) + slot))
        if self.side_by_side > 1:
            share = (os.cpu_count() or 1) // self.side_by_side
            found.setdefault('OMP_NUM_THREADS', str(max(1, share)))
            count = torch.cuda.device_count()
            if count >= self.gpus * self.side_by_side and 'CUDA_VISIBLE_DEVICES' not in os.environ:
                mine = range(slot * self.gpus, (slot + 1) * self.gpus)
                found['CUDA_VISIBLE_DEVICES'] = ','.join(map(str, mine))
        return found


class Training:
    """A job in training.

    Args:
        job: whose needs are trained.
        means: how.
        slot: its place among those side by side.
    """

    def __init__(self, job: Job, means: Means, slot: int) -> None:
        self.job, self.slot = job, slot
        self.log = job.folder / LOG
        job.folder.mkdir(parents=True, exist_ok=True)
        if not job.begun:
            write_note(job.folder / NOTE, dict(fingerprint=job.fingerprint))
        write_config(job)
        with self.log.open('a') as output:
            self.process = subprocess.Popen(
                means.command(job),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=means.environment(slot),
            )

    def stop(self) -> None:
        """Stop it, to go on another time."""
        self.process.terminate()
        self.process.wait()

    def reason(self) -> str:
        """Why it failed: what its log says last."""
        lines = [line for line in self.log.read_text(errors='replace').splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if line.startswith('error: ')), None)
        return (said or (lines or ['it said nothing'])[-1]).removeprefix('error: ')

    def progress(self) -> str:
        """The last step that its log tells of, and the time that is left."""
        found = PROGRESS.findall(self.log.read_text(errors='replace'))
        if not found:
            return f'{self.job.name}: starting'
        step, left = found[-1]
        return f'{self.job.name}: step {step}, {left} to go'


def write_config(job: Job) -> None:
    """Write the config of a job, with the files of the stages that it needs."""
    filled = _filled(job, job.config.to_dict())
    text = with_readable_floats(Config(filled)).pretty_text
    with written_whole(job.config_file) as part:
        part.write_text(text, encoding='utf-8')


def _filled(job: Job, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(job, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_filled(job, each) for each in value)
    return job.filled(value) if isinstance(value, str) else value
