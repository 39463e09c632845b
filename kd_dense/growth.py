"""How time and memory of a step grow, one thing varied at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .benchmark import OURS, PLAIN, Subjects, peak_of
from .measure import all_seconds, in_fresh_process, medians
from .text_table import text_table

DEPTHS = {
    'R50': dict(depth=50),
    'R101': dict(depth=101),
    'X101': dict(type='ResNeXt', depth=101, groups=32, base_width=4),
}
SERIES: Mapping[str, Sequence[Any]] = dict(
    images=(1, 2, 4, 8),
    size=(256, 384, 512, 768, 1024),
    teacher=tuple(DEPTHS),
    losses=(1, 2, 3, 4),
)

UNITS = dict(images='an image', size='a pixel of its area', losses='a loss')


def growth(
    pair: str, name: str, at: Mapping[str, Any], rounds: int, memory: bool = True
) -> list[dict[str, Any]]:
    """Time and memory of the plain step and of ours at each value of one thing.

    Args:
        pair: of :data:`~kd_dense.benchmark.PAIRS`.
        name: of a series of :data:`SERIES`.
        at: ``images``, ``size`` and ``device`` where they do not vary.
        rounds: how often each is timed; the two take turns.
        memory: whether to measure that too, in fresh processes.

    Returns:
        a row for each value: ``value``, ``plain`` and ``ours`` in seconds, ``plain_mib`` and
        ``ours_mib``.
    """
    rows = []
    on_gpu = at['device'].startswith('cuda')
    for value in SERIES[name]:
        subjects = Subjects(pair, **(dict(at) | _changed(name, value)))
        if name == 'losses' and value > len(subjects.our_config(OURS[0])['losses']):
            break
        runs = {each: subjects.make(each) for each in (PLAIN, OURS[0])}
        found = medians(all_seconds(runs, rounds, on_gpu))
        del runs
        row: dict[str, Any] = dict(value=value, plain=found[PLAIN], ours=found[OURS[0]])
        if memory:
            apart = peak_of if on_gpu else _peak_apart
            row.update(plain_mib=apart(PLAIN, subjects), ours_mib=apart(OURS[0], subjects))
        rows.append(row)
    return rows


def _peak_apart(name: str, subjects: Subjects) -> float | None:
    return in_fresh_process(peak_of, name, subjects)


def _changed(name: str, value: Any) -> dict[str, Any]:
    """What a value of a series changes in :class:`~kd_dense.benchmark.Subjects`."""
    return {
        'images': lambda: dict(images=value),
        'size': lambda: dict(size=(value, value)),
        'teacher': lambda: dict(backbone=DEPTHS[value]),
        'losses': lambda: dict(first=value),
    }[name]()


def lines(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A table of a series, and the straight line through it where its values are numbers.

    Args:
        name: of the series.
        rows: of :func:`growth`.
    """
    table = [
        (
            str(row['value']),
            f'{row["plain"]:.3f}',
            f'{row["ours"]:.3f}',
            f'{row["ours"] / row["plain"]:.2f}',
            *(f'{row[key]:.0f}' if row.get(key) else '' for key in ('plain_mib', 'ours_mib')),
        )
        for row in rows
    ]
    header = (name, 'plain s', 'ours s', 'ours / plain', 'plain MiB', 'ours MiB')
    yield from text_table(table, header, right=True)
    if name in UNITS and len(rows) > 2:
        for key in ('plain', 'ours', 'plain_mib', 'ours_mib'):
            values = [row.get(key) for row in rows]
            if all(values):
                x = [row['value'] ** 2 if name == 'size' else row['value'] for row in rows]
                yield f'{key}: {straight(x, values)} {UNITS[name]}'


def straight(x: Sequence[float], y: Sequence[Any]) -> str:
    """The straight line of least squares through points, and how far the farthest is off it."""
    slope, start = np.polyfit(x, y, 1)
    off = max(abs(b - (start + slope * a)) / b for a, b in zip(x, y, strict=True))
    return f'within {off:.0%} of {start:.3g} + {slope:.3g}'
