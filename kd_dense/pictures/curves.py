"""Curves over training: one way to draw them, for pictures and pages."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FEW = 30  # points, below which each is marked


class Curve(NamedTuple):
    """One line.

    Attributes:
        name: for the legend.
        colour: as matplotlib has it.
        steps, values: its points; what is not finite is left out.
    """

    name: str
    colour: str
    steps: Sequence[float]
    values: Sequence[float]


class Chart(NamedTuple):
    """One scalar of several trainings.

    Attributes:
        title: what it is; empty for none.
        curves: one for each training that logged it.
        from_zero: whether the axis of values begins at 0.
    """

    title: str
    curves: Sequence[Curve]
    from_zero: bool = False


def draw_curves(
    panels: Sequence[Chart],
    columns: int = 3,
    size: tuple[float, float] = (4.6, 3.4),
    legend: bool = True,
) -> Figure:
    """Draw panels side by side.

    Args:
        panels: at least one.
        columns: most of them in a row.
        size: of each in inches.
        legend: whether the first panel names the curves.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout='constrained', dpi=150)
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, panel in zip(places, panels, strict=False):
        for curve in panel.curves:
            points = [
                (step, value)
                for step, value in zip(curve.steps, curve.values, strict=True)
                if math.isfinite(value)
            ]
            if points:
                marker = 'o' if len(points) < FEW else None
                place.plot(*zip(*points, strict=True), color=curve.colour, marker=marker, ms=4)
                place.lines[-1].set_label(curve.name)
        place.set(title=panel.title, xlabel='training step')
        place.spines[['top', 'right']].set_visible(False)
        place.grid(alpha=0.25)
        if panel.from_zero:
            place.set_ylim(bottom=min(0.0, place.get_ylim()[0]) if place.lines else 0.0)
    for place in places[len(panels) :]:
        place.set_visible(False)
    if legend and places[0].lines:
        places[0].legend(frameon=False, fontsize=8)
    return figure


def as_svg(figure: Figure, name: str) -> str:
    """A figure as SVG to stand in a page: its text stays text, the background is the page's.

    Args:
        figure: to write.
        name: of its own in the page, for what is defined inside.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': name}):
        figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    text = buffer.getvalue()
    text = text[text.index('<svg') :]
    return (
        text.replace(' id="', f' id="{name}-')
        .replace('url(#', f'url(#{name}-')
        .replace('href="#', f'href="#{name}-')
    )
