"""How a run was made: its command, the time it took, the versions it used."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..export.plain import USED_BY_MMENGINE
from .runs import Run

_STAMP = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - mmengine')
_FACT = re.compile(r'^\s+(Python|PyTorch|TorchVision|MMEngine|GPU 0|CUDA available): (.+)$')
# other variables of a config only fill these
_OPTIONS = USED_BY_MMENGINE | {'randomness', 'auto_scale_lr'}


def command(run: Run, configs: Path = Path('configs')) -> tuple[str, str]:
    """The command that trains such a run again.

    mmengine does not log the command; it is put together from the config that the run dumped and
    the file it came from.

    Args:
        run: the training.
        configs: folder of the files that configs come from.

    Returns:
        the command, and in words how sure it is.
    """
    file, settings = configs / f'{run.config_name}.py', []
    note = 'put together from the config that the run dumped'
    if file.is_file():
        options = _differences(Config.fromfile(file), run.config)
        settings = [f'{key}={value}' for key, value in options]
    elif (own := run.folder / file.name).is_file():  # composed, or from elsewhere
        file, note = own, 'by the config that the run dumped'
    else:
        note = f'put together, and {file} is not there: options of the run are not known'
    if (seed := _seed(run)) is not None and not any(s.startswith('randomness') for s in settings):
        settings.append(f'randomness.seed={seed}')
    parts = ['python', 'tools/train.py', str(file), '--work-dir', str(run.folder)]
    if settings:
        parts += ['--cfg-options', *settings]
    if root := run.config.get('data_root'):
        note += f'; its data lay in {root}'
    return shlex.join(parts), note


def _seed(run: Run) -> int | None:
    if run.checkpoint is None:
        return None
    checkpoint = torch.load(str(run.checkpoint), map_location='cpu', mmap=True, weights_only=False)
    return (checkpoint.get('meta') or {}).get('seed')


def _differences(source: Config, used: Config) -> list[tuple[str, Any]]:
    """Leaves of a config that differ from its file, apart from where the data lies."""
    before, after = (dict(_leaves(config.to_dict())) for config in (source, used))
    roots = (before.get('data_root'), after.get('data_root'))
    moved = roots[1] if None not in roots and roots[0] != roots[1] else ''
    changed = []
    for key, value in after.items():
        old = before.get(key)
        if moved and isinstance(old, str):
            old = old.replace(roots[0], roots[1])
        if value != old and key.split('.')[0] in _OPTIONS:
            changed.append((key, value))
    return changed


def _leaves(value: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f'{prefix}.{key}' if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for index, each in enumerate(value):
            yield from _leaves(each, f'{prefix}.{index}')
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value


def minutes(run: Run) -> float | None:
    """From the first to the last line of its logs, over all its starts."""
    total = 0.0
    for log in run.folder.glob('*/*.log'):
        stamps = [match.group(1) for line in _lines(log) if (match := _STAMP.match(line))]
        if len(stamps) > 1:
            begin, end = (
                datetime.strptime(s, '%Y/%m/%d %H:%M:%S') for s in (stamps[0], stamps[-1])
            )
            total += (end - begin).total_seconds() / 60
    return total or None


def versions(run: Run) -> dict[str, str]:
    """What the log of a run says of its environment."""
    logs = sorted(run.folder.glob('*/*.log'))
    if not logs:
        return {}
    found = {}
    for line in _lines(logs[-1]):
        if match := _FACT.match(line):
            found.setdefault(match.group(1), match.group(2).split(' (main')[0].strip())
        if line.startswith('Config:'):
            break
    return found


def _lines(path: Path) -> Iterator[str]:
    with path.open(errors='replace') as file:
        yield from file
