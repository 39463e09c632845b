"""Line charts as inline SVG: sharp at any size, styled by the page's own sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 30  # margins, in units of the chart
FEW = 15  # points, below which each is marked


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: for the tooltip.
        style: the class in the page's sheet that gives its colour.
        steps, values: its points.
    """

    name: str
    style: str
    steps: Sequence[float]
    values: Sequence[float]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that cover a range, at most ``most`` inside it."""
    if high <= low:
        return [low]
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    begin = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(begin, math.floor(high / step + 1e-9) + 1)]


def chart(title: str, lines: Sequence[Line], from_zero: bool = False) -> str:
    """A chart of one scalar over the training steps.

    Args:
        title: for screen readers.
        lines: with a point at least each.
        from_zero: whether the axis of values begins at 0.
    """
    lines = [_finite(line) for line in lines]
    values = [v for line in lines for v in line.values]
    steps = [s for line in lines for s in line.steps]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low = min(low, 0.0) if from_zero else low
    room = (high - low or abs(high) or 1.0) * 0.06
    low, high = (low if from_zero and low == 0 else low - room), high + room
    first, last = (min(steps), max(steps)) if steps else (0, 1)
    first = min(first, 0)

    def across(step: float) -> float:
        return LEFT + (step - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">'
    ]
    for tick in ticks(low, high, 5):
        y = down(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for tick in ticks(first, last, 4):
        parts.append(
            f'<text class="tick" x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" '
            f'text-anchor="middle">{tick:g}</text>'
        )
    for line in lines:
        points = [(across(s), down(v)) for s, v in zip(line.steps, line.values, strict=True)]
        path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
        parts.append(f'<g class="{escape(line.style)}"><title>{escape(line.name)}</title>')
        parts.append(f'<polyline class="line" points="{path}"/>')
        if len(points) < FEW:
            for (x, y), value in zip(points, line.values, strict=True):
                tip = f'{escape(line.name)}: {value:.4g}'
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{tip}</title></circle>'
                )
        parts.append('</g>')
    return ''.join([*parts, '</svg>'])


def _finite(line: Line) -> Line:
    kept = [(s, v) for s, v in zip(line.steps, line.values, strict=True) if math.isfinite(v)]
    return Line(line.name, line.style, [s for s, _ in kept], [v for _, v in kept])
