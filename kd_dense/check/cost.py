"""What a step costs: seconds and memory with the distillation, and of the student alone."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope

from ..hosts import build_model, isolated_rng
from ..hosts.configs import plain_student
from ..measure import all_seconds, medians, parts_of_step, peak_memory, training_step
from ..registry import MODELS
from .built import Built
from .findings import Section

WITHOUT, WITH = 'the student alone', 'with the teacher'


def examine_cost(
    built: Built,
    optimizer: OptimWrapper,
    batch: dict[str, Any],
    config: Config,
    steps: int,
    section: Section,
) -> None:
    """Time some steps of both, in turns, after one to warm up, and look into one of them.

    The distiller has moved when this is done: its weights are no longer those it started with.
    """
    section.columns = ('seconds', 'peak MiB')
    with section.collect_errors('steps'), isolated_rng(seed=0):
        alone = copy.deepcopy(built.student).train()
        on_gpu = next(alone.parameters()).is_cuda
        own = build_optim_wrapper(alone, optimizers(config, on_gpu)[WITHOUT])
        runs = {
            WITHOUT: partial(training_step, alone, own, batch),
            WITH: partial(training_step, built.distiller, optimizer, batch),
        }
        times = medians(all_seconds(runs, steps, on_gpu))
        parts_seconds = parts_of_step(runs[WITH], on_gpu)
        del alone, own, runs
        peaks = _peaks(config, batch)
        for name, peak in peaks.items():
            factor = times[name] / times[WITHOUT]
            shown = f'{times[name]:.3g}' + (f' (x {factor:.2f})' if name == WITH else '')
            memory = 'unknown' if peak is None else f'{peak:.0f}'
            section.tell(name, shown, memory, seconds=times[name], mib=peak)
        _tell_parts(parts_seconds, section)


def _tell_parts(found: dict[str, float], section: Section) -> None:
    """What the student, the teachers, the losses and the rest make of a step."""
    whole = sum(found.values())
    groups: dict[str, float] = {}
    for label, spent in found.items():
        kind = label.split('.')[0]
        groups[kind] = groups.get(kind, 0.0) + spent
    for kind, spent in groups.items():
        inside = {k.split('.', 1)[1]: v for k, v in found.items() if k.startswith(f'{kind}.')}
        # the share alone: under the profiler a step takes longer
        section.tell(f'  of it: {kind}', f'{spent / whole:.0%}', seconds=spent, parts=inside)


def optimizers(config: Config, on_gpu: bool) -> dict[str, ConfigDict]:
    """Configs of both optimizers; without mixed precision where there is no GPU to mix on."""
    found = {}
    for name, source in ((WITHOUT, plain_student(config)), (WITH, config)):
        wrapper = copy.deepcopy(source.optim_wrapper)
        for part in (wrapper, *(wrapper.get(key, {}) for key in ('student', 'discriminator'))):
            if not on_gpu and 'Amp' in str(part.get('type')):
                part.type = 'OptimWrapper'
                for key in ('loss_scale', 'dtype', 'use_fsdp'):
                    part.pop(key, None)
        found[name] = wrapper
    return found


def _peaks(config: Config, batch: dict[str, Any]) -> dict[str, float | None]:
    """Peak memory in MiB of each, in a fresh process of its own; None where that failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    peaks: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        config.dump(Path(folder, 'config.py'))
        torch.save(batch, Path(folder, 'batch.pt'))
        for name in (WITHOUT, WITH):
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
        if name == WITHOUT:
            model = build_model(plain_student(config).model)
        else:
            model = MODELS.build(config.model)
            model.load_teacher()
        model.to(device).train()
        wrapper = optimizers(config, device.startswith('cuda'))[name]
        optimizer = build_optim_wrapper(model, wrapper)
        for _ in range(3):
            training_step(model, optimizer, batch)
    return peak_memory(device.startswith('cuda'))


if __name__ == '__main__':
    print(_peak_here(*sys.argv[1:]))
