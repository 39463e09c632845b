"""What a step costs: seconds and memory with the distillation, and of the student alone."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.utils import import_modules_from_strings

from ..hosts import build_model, isolated_rng
from ..hosts.configs import is_distiller, plain_student, replace_amp
from ..measure import (
    all_seconds,
    in_fresh_process,
    medians,
    parts_of_step,
    peak_memory,
    training_step,
)
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

    A student that trains without its own loss has no training alone to compare with.

    The distiller has moved when this is done: its weights are no longer those it started with.
    """
    section.columns = ('seconds', 'peak MiB')
    configs = {WITHOUT: plain_student(config), WITH: config}
    if not built.distiller.own_loss:
        del configs[WITHOUT]
    with section.collect_errors('steps'), isolated_rng(seed=0):
        on_gpu = next(built.student.parameters()).is_cuda
        runs = {WITH: partial(training_step, built.distiller, optimizer, batch)}
        if WITHOUT in configs:
            alone = copy.deepcopy(built.student).train()
            own = build_optim_wrapper(alone, optimizer_config(configs[WITHOUT], on_gpu))
            runs = {WITHOUT: partial(training_step, alone, own, batch)} | runs
            del alone, own
        times = medians(all_seconds(runs, steps, on_gpu))
        parts_seconds = parts_of_step(runs[WITH], on_gpu)
        del runs
        if on_gpu:
            torch.cuda.empty_cache()
        for name, each in configs.items():
            peak = in_fresh_process(_peak, each, batch)
            factor = times[name] / times.get(WITHOUT, times[name])
            shown = f'{times[name]:.3g}' + (f' (x {factor:.2f})' if factor != 1 else '')
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


def optimizer_config(config: Config, on_gpu: bool) -> ConfigDict:
    """Of the optimizer; without mixed precision where there is no GPU to mix on."""
    wrapper = copy.deepcopy(config.optim_wrapper)
    for part in (wrapper, *(wrapper.get(key, {}) for key in ('student', 'discriminator'))):
        if not on_gpu and 'Amp' in str(part.get('type')):
            replace_amp(part, 'OptimWrapper')
    return wrapper


def _peak(config: Config, batch: dict[str, Any]) -> float:
    """Peak memory in MiB of three steps, in a fresh process."""
    if imports := config.get('custom_imports'):
        import_modules_from_strings(**imports)
    device = get_device()
    on_gpu = device.startswith('cuda')
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        if is_distiller(config):
            model = MODELS.build(config.model)
            model.load_teacher()
        else:
            model = build_model(config.model)
        model.to(device).train()
        optimizer = build_optim_wrapper(model, optimizer_config(config, on_gpu))
        for _ in range(3):
            training_step(model, optimizer, batch)
    return peak_memory(on_gpu)
