"""Draw a sheet: a row for each image, a column for each thing to show of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch

from .draw import IGNORED, Classes, Colour, Overlay, draw_over, text_size

DPI = 100
WIDTH = (320, 480)  # least and greatest width of an image on the sheet, in its pixels
MARGIN, GAP, HEAD, CAPTION, KEY = 12, 8, 40, 18, 22  # pixels
SWATCH = 34  # width of the key's colours in pixels, and of what is around them
STRIPED = dict(fc='0.15', ec='0.6', hatch='//////')
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
    key = _key(canvas, columns, classes)
    widths = [text_size(canvas, entry.get_label(), FONT)[0] + SWATCH for entry in key]
    room = width - 2 * MARGIN
    in_a_line = max(1, len(key) if sum(widths) <= room else int(room / max(widths)))
    height += -(-len(key) // in_a_line) * KEY
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
    if key:
        legend = figure.legend(
            handles=key, ncols=in_a_line, prop=FONT, frameon=False, loc='lower left',
            bbox_to_anchor=(MARGIN / width, MARGIN / height), borderpad=0, borderaxespad=0,
            handlelength=1.6, handleheight=1.1, handletextpad=0.1, columnspacing=1.4,
            labelspacing=0.9,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
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


def _key(canvas: FigureCanvasAgg, columns: Sequence[Column], classes: Classes) -> list[Patch]:
    """An entry for each class, or what is ignored, that is told by colour alone."""
    drawn = (overlay for column in columns for row in column.overlays for overlay in row)
    found = set().union(*(overlay.keyed() for overlay in drawn))
    return [
        # a space before, or matplotlib may leave out a name that begins with a low line
        Patch(
            label=f' {classes.name(index)}',
            linewidth=0.6,
            **(STRIPED if index == IGNORED else dict(fc=classes.colour(index), ec='0.4')),
        )
        for index in sorted(found, key=lambda i: (i == IGNORED, i))
    ]
