"""The tables of the page, as the values that its template shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..pictures.draw import IGNORED
from ..record import FILE, minutes
from .evidence import Evidence
from .numbers import TIMES, alone_in_words, compare, first, grouped, known_metrics, table, with_gain
from .runs import ALONE, DISTILLED, TEACHER, Run
from .speed import ROUNDS, machine


def numbers(runs: Sequence[Run]) -> dict[str, Any]:
    """The metrics of all runs."""
    metrics = known_metrics(runs)
    rows = table(runs, metrics)
    missing = [f'{run.name} logged no validation.' for run in runs if not run.metrics]
    for role, what in ((TEACHER, 'teacher'), (ALONE, 'student alone'), (DISTILLED, 'distilled')):
        if not first(runs, role):
            missing.append(
                f'No {what} run was given or recognised, so what depends on it is left out; '
                '--roles names the roles.'
            )
    closed = {
        c.run.name: f'{c.closed:.0%}'
        for c in (compare(runs, metrics[0]) if metrics else ())
        if c.closed is not None
    }
    return dict(
        metrics=metrics,
        table=rows,
        closed=closed,
        alone=alone_in_words(runs) if first(runs, DISTILLED) else '',
        dashes=any(value is None for _, cells in rows for value, _ in cells),
        numbers_missing=missing,
    )


def costs(runs: Sequence[Run], evidence: Evidence) -> dict[str, Any]:
    """Size and speed."""
    rows = [(run, evidence.costs[run.name]) for run in runs if run.name in evidence.costs]
    note = ''
    if rows:
        shape = rows[0][1].shape
        note = (
            'Of what is shipped: a distilled student is the plain student. Multiply-adds of one '
            f'image of {shape[0]}{TIMES}{shape[1]} pixels, of convolutions and matrix products, '
            'counted by torch.'
        )
    timed = any(cost.milliseconds for _, cost in rows)
    if timed:
        note += (
            f' Times: median of {ROUNDS} predictions, from image to result, the models in turn, '
            f'those of the same network taken together; {machine()}.'
        )
    missing = [] if timed else ['No times: no model was run.']
    return dict(costs=rows, cost_note=note, cost_missing=missing)


def per_class(runs: Sequence[Run], evidence: Evidence) -> dict[str, Any]:
    """AP or intersection over union of each class, of the runs that were run."""
    values = {r.name: evidence.per_class(r) for r in runs if r.name in evidence.results}
    if not values:
        return dict(per_class=None)
    ran = [run for run in runs if run.name in values]
    alone = first(ran, ALONE)
    base = values[alone.name] if alone else None
    counts = _counts(evidence)
    rows = []
    for index, name in enumerate(evidence.classes.names):
        mine = base and base[index]
        cells = [with_gain(run, values[run.name][index], mine) for run in ran]
        rows.append((name, grouped(counts[index]), cells))
    number, total = len(evidence.samples), evidence.total
    images = f'all {total} validation images'
    if number < total:
        images = f'{number} of the {total} validation images, spread evenly'
    what = 'Intersection over union' if evidence.segments else 'COCO AP'
    note = f'{what} of each class, in points, measured here on {images}'
    note += '' if number == total else ', so unlike the numbers of the whole set above'
    return dict(per_class=dict(rows=rows, runs=ran, note=note + '.'))


def _counts(evidence: Evidence) -> list[int]:
    """Annotated objects or pixels of each class."""
    number = len(evidence.classes.names)
    if evidence.segments:
        labels = [truth[truth != IGNORED] for truth in evidence.truths]
    else:
        labels = [truth.counted().labels for truth in evidence.truths]
    return np.bincount(np.concatenate(labels).astype(int), minlength=number)[:number].tolist()


def made(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Commands, times and versions."""
    rows = []
    for run in runs:
        why = f'{run.role_text.capitalize()}: {run.why}.'
        if (record := run.record) is None:
            note = f'How it was made is not known: there is no {FILE} in its folder.'
            rows.append(dict(run=run, why=why, command='', note=note))
            continue
        facts = [f'In {record["folder"]}, seed {record["seed"]}.']
        if len(starts := record['starts']) > 1:
            facts.append(f'Resumed {len(starts) - 1} times.')
        if spent := minutes(record, run.folder):
            facts.append(f'Took {spent:.1f} minutes.')
        facts.append(', '.join(f'{name} {value}' for name, value in record['versions'].items()))
        rows.append(dict(run=run, why=why, command=record['command'], note=' '.join(facts) + '.'))
    return rows
