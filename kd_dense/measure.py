"""Time, memory and the parts of a training step."""

from __future__ import annotations

import copy
import os
import pickle
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

MIB = 2**20
LABELS = 'kd_dense/'  # what the labels begin with that kd_dense sets for the profiler
STEP = 'kd_dense_step'


def seconds(run: Callable[[], object], on_gpu: bool) -> float:
    """Seconds of one call, the GPU's work included."""
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def all_seconds(
    runs: Mapping[str, Callable[[], object]], rounds: int, on_gpu: bool, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of several things that take turns, so that a busy machine slows all alike.

    Args:
        runs: what to time, by name.
        rounds: how often each is timed.
        on_gpu: whether to wait for the GPU.
        warm_up: rounds before those, which do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + warm_up):
        for name, run in runs.items():
            spent = seconds(run, on_gpu)
            if number >= warm_up:
                times[name].append(spent)
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(on_gpu: bool) -> float:
    """Peak memory in MiB of this process so far: of the GPU, else resident."""
    if on_gpu:
        return torch.cuda.max_memory_allocated() / MIB
    # not getrusage: its maximum is inherited from the process that started this one
    status = Path('/proc/self/status').read_text()
    found = re.search(r'VmHWM:\s+(\d+) kB', status)
    return int(found[1]) / 2**10 if found else float('nan')


def in_fresh_process(function: Callable[..., float], *arguments: Any) -> float | None:
    """What a function of a module returns in a process of its own; None where it failed there.

    What it prints is not shown.
    """
    code = 'import pickle, sys; run, given = pickle.load(sys.stdin.buffer); print(run(*given))'
    given = pickle.dumps((function, arguments))
    done = subprocess.run([sys.executable, '-c', code], input=given, capture_output=True)
    return None if done.returncode else float(done.stdout.split()[-1])


def training_step(model: BaseModel, optimizer: OptimWrapper, data: dict[str, Any]) -> None:
    """Forward, backward and update, as mmengine's ``train_step``; the data is not changed."""
    with optimizer.optim_context(model):
        batch = model.data_preprocessor(copy.deepcopy(data), True)
        losses = model(**batch, mode='loss')
    optimizer.update_params(model.parse_losses(losses)[0])


def parts_of_step(step: Callable[[], object], on_gpu: bool) -> dict[str, float]:
    """Seconds that each labelled part of one training step takes, by the profiler.

    Args:
        step: forward, backward and update of a distiller.
        on_gpu: whether the time on the GPU counts, or that of the CPU.

    Returns:
        by label without its beginning: ``student`` (its forward pass and own loss),
        ``NAME.PROPERTY`` of each teacher's reads, ``losses.NAME``; and ``backward and update``,
        the rest of the step.
    """
    # or the profiler calls a machine without a GPU an error
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        if on_gpu:
            torch.cuda.synchronize()
        with record_function(STEP):
            step()
            if on_gpu:
                torch.cuda.synchronize()
    found: dict[str, float] = defaultdict(float)
    whole = 0.0
    for event in profiled.events():
        if event.device_type != DeviceType.CPU:
            continue
        if event.name == STEP:
            whole = event.cpu_time_total / 1e6
        elif event.name.startswith(LABELS) and not _inside_another(event):
            spent = event.device_time_total if on_gpu else event.cpu_time_total
            found[event.name.removeprefix(LABELS)] += spent / 1e6
    found['backward and update'] = max(0.0, whole - sum(found.values()))
    return dict(found)


def _inside_another(event: Any) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith(LABELS):
            return True
        parent = parent.cpu_parent
    return False
