"""What a step costs: seconds and memory with the distillation, and of the student alone."""

from __future__ import annotations

import copy
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope

from ..hosts import build_model, isolated_rng
from ..hosts.configs import plain_student
from ..registry import MODELS
from .parts import Parts
from .report import Section

ALONE, DISTILLED = 'the student alone', 'with the teacher'
MIB = 2**20


def examine_cost(
    parts: Parts,
    optimizer: OptimWrapper,
    batch: dict[str, Any],
    config: Config,
    steps: int,
    section: Section,
) -> None:
    """Time some steps of both, in turns, after one to warm up.

    The distiller has moved when this is done: its weights are no longer those it started with.

    Args:
        parts: with a distiller that is ready to train.
        optimizer: the distiller's.
        batch: as the data loader gives it.
        config: of the training.
        steps: how many to time.
        section: where to tell.
    """
    section.columns = ('seconds', 'peak MiB')
    with section.collect_errors('steps'), isolated_rng(seed=0):
        alone = copy.deepcopy(parts.student).train()
        on_gpu = next(alone.parameters()).is_cuda
        own = build_optim_wrapper(alone, optimizers(config, on_gpu)[ALONE])
        runs = {
            ALONE: partial(training_step, alone, own, batch),
            DISTILLED: partial(training_step, parts.distiller, optimizer, batch),
        }
        medians = _medians(runs, steps, on_gpu)
        del alone, own, runs
        peaks = _peaks(config, batch)
        for name, peak in peaks.items():
            factor = medians[name] / medians[ALONE]
            shown = f'{medians[name]:.3g}' + (f' (x {factor:.2f})' if name == DISTILLED else '')
            memory = 'unknown' if peak is None else f'{peak:.0f}'
            section.ok(name, shown, memory, seconds=medians[name], mib=peak)


def training_step(model: BaseModel, optimizer: OptimWrapper, data: dict[str, Any]) -> None:
    """Forward, backward and update, as mmengine's ``train_step``."""
    with optimizer.optim_context(model):
        batch = model.data_preprocessor(copy.deepcopy(data), True)
        losses = model(**batch, mode='loss')
    optimizer.update_params(model.parse_losses(losses)[0])


def optimizers(config: Config, on_gpu: bool) -> dict[str, ConfigDict]:
    """Configs of both optimizers; without mixed precision where there is no GPU to mix on."""
    found = {}
    for name, source in ((ALONE, plain_student(config)), (DISTILLED, config)):
        wrapper = copy.deepcopy(source.optim_wrapper)
        for part in (wrapper, *(wrapper.get(key, {}) for key in ('student', 'discriminator'))):
            if not on_gpu and 'Amp' in str(part.get('type')):
                part.type = 'OptimWrapper'
                for key in ('loss_scale', 'dtype', 'use_fsdp'):
                    part.pop(key, None)
        found[name] = wrapper
    return found


def _seconds(run: Callable[[], None], on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _medians(runs: dict[str, Callable[[], None]], steps: int, on_gpu: bool) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(steps + 1):
        for name, run in runs.items():
            seconds = _seconds(run, on_gpu)
            if number:  # the first warms up
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def _peaks(config: Config, batch: dict[str, Any]) -> dict[str, float | None]:
    """Peak memory in MiB of each, in a fresh process of its own; None where that failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    peaks: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        config.dump(Path(folder, 'config.py'))
        torch.save(batch, Path(folder, 'batch.pt'))
        for name in (ALONE, DISTILLED):
            command = [sys.executable, '-m', 'kd_dense.check.cost', folder, name]
            done = subprocess.run(command, capture_output=True, text=True)
            failed = bool(done.returncode)
            peaks[name] = None if failed else float(done.stdout.strip().splitlines()[-1])
    return peaks


def _peak_here(folder: str, name: str) -> float:
    """Peak memory in MiB of three steps, in this fresh process."""
    config = Config.fromfile(Path(folder, 'config.py'))
    batch = torch.load(Path(folder, 'batch.pt'), weights_only=False)
    device = get_device()
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        if name == ALONE:
            model = build_model(plain_student(config).model)
        else:
            model = MODELS.build(config.model)
            model.load_teacher()
        model.to(device).train()
        wrapper = optimizers(config, device.startswith('cuda'))[name]
        optimizer = build_optim_wrapper(model, wrapper)
        for _ in range(3):
            training_step(model, optimizer, batch)
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated() / MIB
    # not getrusage: its maximum is inherited from the process that started this one
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) / 2**10


if __name__ == '__main__':
    print(_peak_here(*sys.argv[1:]))
