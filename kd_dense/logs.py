"""What mmengine logged of a training: losses and metrics by training step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

# what mmengine's loggers and mmdet's and mmseg's evaluators add besides metrics
_NO_METRICS = ('time', 'data_time', 'step', 'epoch', 'iter', 'memory', 'lr')
VALIDATION_LOSS = 'val/loss_kd_'  # what ValidationLossHook logs, then the name of the loss


def read_scalars(folder: Path) -> list[dict]:
    """The lines of all runs in a work directory, in the order of time; empty where there is none.

    A line that is no JSON, as a killed training or a damaged disk leaves it, is skipped.
    """
    lines = []
    for file in sorted(Path(folder).glob('*/vis_data/scalars.json')):
        for text in file.read_text(encoding='utf-8', errors='replace').splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
    return lines


def is_training(line: Mapping) -> bool:
    """Whether a line was logged in training; the others are of validations and tests."""
    return 'loss' in line


def metrics_of(line: Mapping) -> dict[str, float]:
    """The metrics in a line of a validation."""
    return {
        key: float(value)
        for key, value in line.items()
        if key not in _NO_METRICS
        and isinstance(value, int | float)
        and not key.startswith(VALIDATION_LOSS)
    }


def validations(lines: Iterable[Mapping]) -> dict[int, dict[str, float]]:
    """The metrics of each validation by its epoch, or by its step in trainings by iteration.

    Where mmengine logged epoch 0, as it does of trainings by iteration unless told otherwise, the
    training step before counts. Of what was validated twice, after a resume, the last stays.
    """
    found, step = {}, 0
    for line in lines:
        if is_training(line):
            step = line['step']
        elif metrics := metrics_of(line):
            found[line.get('step') or step] = metrics
    return dict(sorted(found.items()))


def by_epoch(lines: Iterable[Mapping]) -> bool:
    """Whether a training counted epochs."""
    return any('epoch' in line for line in lines if is_training(line))


def curve(lines: Iterable[Mapping], key: str) -> tuple[list[int], list[float]]:
    """Training steps and values of one scalar.

    A validation counts at the training step before it; of a step that was logged twice, after a
    resume, the last value stays.
    """
    values, step = {}, 0
    for line in lines:
        if is_training(line):
            step = line['step']
        if key in line:
            values[step] = line[key]
    steps = sorted(values)
    return steps, [values[s] for s in steps]
