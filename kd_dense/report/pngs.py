"""The curves and pictures of the page as PNG files, for slides and papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..logs import curve
from ..pictures.boxes import Boxes
from ..pictures.curves import Curve, Panel
from ..pictures.curves import draw_curves as draw
from ..pictures.masks import Mask
from ..pictures.panel import IGNORED as STRIPED
from ..pictures.sheet import Column, draw_sheet
from .colours import colours
from .evidence import Evidence, evenly
from .numbers import known_metrics
from .predict import IGNORED, Result
from .runs import Run


def draw_curves(path: Path, runs: Sequence[Run], evidence: Evidence, show: int) -> bool:
    """Draw the metrics and the sum of the losses over training; False where nothing was logged."""
    panels = [(m.key, m.title, m.scale) for m in known_metrics(runs)[:2]]
    if any(run.lines for run in runs):
        panels.append(('loss', 'loss', 1))
    if not panels:
        return False
    drawn = []
    for key, title, scale in panels:
        lines = []
        for run, colour in zip(runs, colours(runs), strict=True):
            steps, values = curve(run.lines, key)
            lines.append(Curve(run.name, colour, steps, [value * scale for value in values]))
        drawn.append(Panel(title, lines))
    draw(drawn).savefig(path)
    return True


def draw_pictures(path: Path, runs: Sequence[Run], evidence: Evidence, show: int) -> bool:
    """Draw a row for each image, a column for each model; False where nothing was predicted."""
    if not evidence.results:
        return False
    places = evenly(len(evidence.pictures.chosen), show)
    chosen = [evidence.pictures.chosen[i] for i in places]
    columns = [('annotated', '', [picture.truth for picture in chosen])]
    for run in runs:
        if run.name in evidence.results:
            found = [evidence.results[run.name][i] for i in places]
            columns.append((run.name, run.role, found))
    sheet = [
        Column(title, role, [[_overlay(each, evidence.threshold)] for each in found])
        for title, role, found in columns
    ]
    draw_sheet(path, [picture.pixels for picture in chosen], sheet, evidence.classes)
    return True


def _overlay(found: Result, threshold: float) -> Boxes | Mask:
    if isinstance(found, np.ndarray):
        return Mask(np.where(found == IGNORED, STRIPED, found.astype(int)))
    shown = found if found.scores is None else found.above(threshold)
    return Boxes(shown.boxes, shown.labels, shown.scores)
