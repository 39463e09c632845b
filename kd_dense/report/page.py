"""The page: everything that was read and measured, for the template that puts it into words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ..pictures.draw import IGNORED
from ..record import FILE, minutes
from ..version import __version__
from . import numbers, progress
from .evidence import Evidence
from .figures import pictures
from .numbers import alone_in_words, best_teacher, compare, grouped, known_metrics, with_gain
from .runs import ALONE, DISTILLED, TEACHER, Run
from .speed import ROUNDS, machine

HERE = Path(__file__).parent
STUDENTS = (ALONE, DISTILLED)


def render(
    runs: Sequence[Run], evidence: Evidence, command: str, versions: str, show: int = 4
) -> str:
    """The page as HTML.

    Args:
        runs: the trainings, teachers first.
        evidence: what running the models showed.
        command: that this report was asked for with.
        versions: of what it was made with.
        show: how many images to show of each kind.
    """
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters['grouped'] = grouped
    metrics = known_metrics(runs)
    compared = {c.run.name: c for c in compare(runs, metrics[0])} if metrics else {}
    return environment.get_template('page.html').render(
        runs=runs,
        teachers=[run for run in runs if run.role == TEACHER],
        students=[run for run in runs if run.role == ALONE],
        distilled=[run for run in runs if run.role == DISTILLED],
        evidence=evidence,
        segments=evidence.segments,
        metrics=metrics,
        table=numbers.table(runs, metrics),
        compared=compared,
        best=max(compared.values(), key=lambda c: c.gain, default=None),
        teacher=best_teacher(runs, metrics[0]) if metrics else None,
        alone=alone_in_words(runs),
        lengths=sorted({max(r.validations) for r in runs if r.role in STUDENTS and r.metrics}),
        rounds=ROUNDS,
        machine=machine(),
        per_class=per_class(runs, evidence),
        minutes=minutes,
        record_file=FILE,
        **pictures(runs, evidence, show),
        **progress.training(runs),
        css=(HERE / 'page.css').read_text(),
        version=__version__,
        command=command,
        versions=versions,
    )


def per_class(runs: Sequence[Run], evidence: Evidence) -> dict[str, Any] | None:
    """AP or intersection over union of each class, of the runs that were run."""
    values = {r.name: evidence.per_class(r) for r in runs if r.name in evidence.results}
    if not values:
        return None
    ran = [run for run in runs if run.name in values]
    alone = numbers.first(ran, ALONE)
    counts, rows = _counts(evidence), []
    for index, name in enumerate(evidence.classes.names):
        base = values[alone.name][index] if alone else None
        cells = [with_gain(run, values[run.name][index], base) for run in ran]
        rows.append((name, counts[index], cells))
    return dict(rows=rows, runs=ran)


def _counts(evidence: Evidence) -> list[int]:
    """Annotated objects or pixels of each class."""
    number = len(evidence.classes.names)
    if evidence.segments:
        labels = [truth[truth != IGNORED] for truth in evidence.truths]
    else:
        labels = [truth.counted().labels for truth in evidence.truths]
    return np.bincount(np.concatenate(labels).astype(int), minlength=number)[:number].tolist()
