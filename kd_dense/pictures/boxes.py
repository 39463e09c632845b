"""Boxes with class names, and dots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from .panel import DPI, Colour, Overlay, Panel, text_size

LABEL_FONT = FontProperties(family='DejaVu Sans', size=7)
MOST_BOXES = 60  # per image, the surest


@dataclass(frozen=True)
class Boxes(Overlay):
    """B boxes with the names of their classes.

    Attributes:
        boxes: xyxy in pixels, (B, 4).
        labels: class indices, (B,).
        scores: (B,) or None.
        plain: draw them white and without names.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    plain: bool = False

    def draw(self, panel: Panel) -> None:
        """Draw the surest boxes, with names where there is room."""
        order = np.arange(len(self.boxes)) if self.scores is None else np.argsort(-self.scores)
        taken: list[tuple[float, ...]] = []
        for index in order[:MOST_BOXES]:
            x1, y1, x2, y2 = self.boxes[index].tolist()
            label = int(self.labels[index])
            colour = 'white' if self.plain else panel.classes.colour(label)
            for line, edge in ((2.6, (0, 0, 0, 0.6)), (1.3, colour)):
                panel.axes.add_patch(
                    Rectangle(
                        (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=line
                    )
                )
            if self.plain:
                continue
            text = panel.classes.name(label)
            text += '' if self.scores is None else f' {self.scores[index]:.2f}'
            box = self.boxes[index] * panel.zoom
            place = free_place(panel.canvas, text, box, panel.size[::-1], taken)
            if place is not None:
                taken.append(place)
                _label(panel, text, place[0] / panel.zoom, place[1] / panel.zoom, colour)


@dataclass(frozen=True)
class Dots(Overlay):
    """B dots of one colour.

    Attributes:
        centres: (x, y) in pixels, (B, 2).
        sizes: diameters in pixels, (B,).
        colour: as matplotlib takes it.
    """

    centres: np.ndarray
    sizes: np.ndarray
    colour: str

    def draw(self, panel: Panel) -> None:
        """Draw them."""
        points = (self.sizes * panel.zoom * 72 / DPI) ** 2
        panel.axes.scatter(*self.centres.T, s=points, c=self.colour, alpha=0.75,
                           edgecolors='black', linewidths=0.3)  # fmt: skip


def _label(panel: Panel, text: str, x: float, y: float, colour: Colour) -> None:
    dark = np.dot(colour, (0.299, 0.587, 0.114)) < 0.55
    panel.axes.text(x, y, text, fontproperties=LABEL_FONT, color='white' if dark else 'black',
                    va='top', parse_math=False, clip_on=True,
                    bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 1.2})  # fmt: skip


def free_place(
    canvas: FigureCanvasAgg, text: str, box: np.ndarray, sheet: tuple[float, float],
    taken: list[tuple[float, ...]],
) -> tuple[float, ...] | None:  # fmt: skip
    """Where a label covers no other: xyxy on the panel, or None; all in sheet pixels."""
    wide, tall = (size + 5 for size in text_size(canvas, text, LABEL_FONT))
    x1, y1, x2, y2 = box.tolist()
    places = [
        (x1, y1 - tall), (x1, y2 + 2), (x2 - wide, y1 - tall), (x2 - wide, y2 + 2),
        (x1 + 2, y1 + 2), (x1 + 2, y2 - tall), (x2 + 2, y1), (x1 - wide, y1),
        (x2 + 2, y2 - tall), (x1 - wide, y2 - tall),
    ]  # fmt: skip
    for x, y in places:
        x = min(max(x, 2), sheet[0] - wide)
        if not 2 <= y <= sheet[1] - tall:
            continue
        place = (x, y, x + wide, y + tall)
        if not any(
            x < right and left < place[2] and y < bottom and top < place[3]
            for left, top, right, bottom in taken
        ):
            return place
    return None
