"""Draw a sheet: a row for each image, a column for each thing to show of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from .draw import IGNORED, Classes, Colour, Overlay, draw_over, stripes, text_size

DPI = 100
WIDTH = (320, 480)  # least and greatest width of an image on the sheet, in its pixels
MARGIN, GAP, HEAD, CAPTION, KEY = 12, 8, 40, 18, 22  # pixels
SWATCH = (18, 12)  # of the key: width and height in pixels
FONT = FontProperties(family='DejaVu Sans', size=8)


@dataclass(frozen=True)
class Column:
    """One column of the sheet.

    Attributes:
        title: what is shown.
        subtitle: by which model, in smaller type.
        overlays: of each image.
        captions: a line above each image; none at all leaves them out.
        meanings: of colours in this column, shown instead of the subtitle.
    """

    title: str
    subtitle: str
    overlays: Sequence[Sequence[Overlay]]
    captions: Sequence[str] = ()
    meanings: dict[str, Colour | str] = field(default_factory=dict)


def draw_sheet(
    path: Path, images: Sequence[np.ndarray], columns: Sequence[Column], classes: Classes
) -> None:
    """Draw one row for each image and one column for each of ``columns``, as PNG.

    Args:
        path: where to; its folder is made.
        images: (H, W, 3), uint8, RGB, of any sizes.
        columns: what to draw on them.
        classes: what the class indices stand for; those told by colour alone get a key.
    """
    panel = int(np.clip(max(image.shape[1] for image in images), *WIDTH))
    heights = [round(panel * image.shape[0] / image.shape[1]) for image in images]
    width = 2 * MARGIN + len(columns) * (panel + GAP) - GAP
    height = 2 * MARGIN + HEAD + sum(heights) + len(images) * CAPTION
    canvas = FigureCanvasAgg(Figure((width / DPI, height / DPI), dpi=DPI, facecolor='white'))
    key = _key(canvas, columns, classes, width - 2 * MARGIN)
    height += len(key) * KEY
    figure = canvas.figure
    figure.set_size_inches(width / DPI, height / DPI)
    for index, column in enumerate(columns):
        left = MARGIN + index * (panel + GAP)
        _head(canvas, column, (left + panel / 2) / width, 1 - MARGIN / height)
        top = MARGIN + HEAD
        for row, (image, tall) in enumerate(zip(images, heights, strict=True)):
            if column.captions:
                figure.text(left / width, 1 - (top + CAPTION - 4) / height, column.captions[row],
                            size=7.5, color='0.35', va='bottom', parse_math=False)  # fmt: skip
            top += CAPTION
            bottom = 1 - (top + tall) / height
            place = (left / width, bottom, panel / width, tall / height)
            draw_over(canvas, place, image, column.overlays[row], classes)
            top += tall
    for line, entries in enumerate(reversed(key)):
        _draw_key(figure, entries, classes, height - MARGIN / 2 - (line + 0.5) * KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(path)


def _head(canvas: FigureCanvasAgg, column: Column, centre: float, top: float) -> None:
    """Title and subtitle of a column, centred; or the meanings of its colours."""
    figure = canvas.figure
    width, height = figure.bbox.size
    figure.text(centre, top, column.title, size=11, weight='bold', ha='center', va='top')
    parts = [(f'● {name}', colour) for name, colour in column.meanings.items()]
    parts = parts or [(column.subtitle, '0.35')]
    widths = [text_size(canvas, text, FONT)[0] for text, _ in parts]
    left = centre * width - (sum(widths) + 12 * (len(parts) - 1)) / 2
    for (text, colour), wide in zip(parts, widths, strict=True):
        figure.text(left / width, top - 20 / height, text, fontproperties=FONT, color=colour,
                    va='top', parse_math=False)  # fmt: skip
        left += wide + 12


def _key(
    canvas: FigureCanvasAgg, columns: Sequence[Column], classes: Classes, width: float
) -> list[list[tuple[float, int, str]]]:
    """Lines of the key: of each entry where it begins in pixels, its class and its name."""
    drawn = (overlay for column in columns for row in column.overlays for overlay in row)
    found = set().union(*(overlay.keyed() for overlay in drawn))
    lines: list[list[tuple[float, int, str]]] = []
    left = width
    for index in sorted(found, key=lambda i: (i == IGNORED, i)):
        name = classes.name(index)
        wide = SWATCH[0] + 5 + text_size(canvas, name, FONT)[0] + 16
        if left + wide > width:
            lines.append([])
            left = 0.0
        lines[-1].append((MARGIN + left, index, name))
        left += wide
    return lines


def _draw_key(
    figure: Figure, entries: Sequence[tuple[float, int, str]], classes: Classes, middle: float
) -> None:
    """Draw one line of the key, ``middle`` pixels below the top."""
    width, height = figure.bbox.size
    wide, tall = SWATCH
    for left, index, name in entries:
        place = (left / width, 1 - (middle + tall / 2) / height, wide / width, tall / height)
        axes = figure.add_axes(place)
        if index == IGNORED:
            axes.imshow(stripes((tall, wide)), aspect='auto')
        else:
            axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=classes.colour(index)))
        axes.set(xticks=(), yticks=())
        axes.spines[:].set(color='0.4', linewidth=0.6)
        figure.text((left + wide + 5) / width, 1 - middle / height, name, fontproperties=FONT,
                    color='0.2', va='center', parse_math=False)  # fmt: skip
