"""Draw a sheet of images side by side: boxes with class names, and dots."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

DPI = 100
PANEL = (320, 480)  # least and greatest width of an image on the sheet, in its pixels
MARGIN, GAP, HEAD, CAPTION = 12, 8, 40, 18  # pixels
LABEL_FONT = FontProperties(family='DejaVu Sans', size=7)
MOST_BOXES = 60  # per image, the surest
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Boxes:
    """B boxes: xyxy in pixels (B, 4), class indices (B,), scores (B,) or None."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Dots:
    """B dots: centres (x, y) in pixels (B, 2), diameters in pixels (B,)."""

    centres: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Column:
    """One column of the sheet, with something for each image.

    Attributes:
        title: what is shown.
        subtitle: by which model, in smaller type.
        boxes: of each image.
        dots: of each image, by what the dots mean, with the colour of each meaning in ``colours``;
            where there are dots, boxes have no labels, and the meanings stand as the subtitle.
    """

    title: str
    subtitle: str
    boxes: list[Boxes]
    dots: dict[str, list[Dots]] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)


def draw_sheet(
    path: Path,
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: Sequence[Column],
    classes: Sequence[str],
) -> None:
    """Draw one row for each image and one column for each of ``columns``, as PNG.

    Args:
        path: where to; its folder is made.
        images: (H, W, 3), uint8, RGB, of any sizes.
        captions: a line above each row.
        columns: what to draw on them.
        classes: names by index.
    """
    panel = int(np.clip(max(image.shape[1] for image in images), *PANEL))
    heights = [round(panel * image.shape[0] / image.shape[1]) for image in images]
    width = 2 * MARGIN + len(columns) * (panel + GAP) - GAP
    height = 2 * MARGIN + HEAD + sum(heights) + len(images) * CAPTION
    figure = Figure((width / DPI, height / DPI), dpi=DPI, facecolor='white')
    canvas = FigureCanvasAgg(figure)
    for index, column in enumerate(columns):
        left = MARGIN + index * (panel + GAP)
        _head(canvas, column, (left + panel / 2) / width, 1 - MARGIN / height)
        top = MARGIN + HEAD
        for row, (image, tall) in enumerate(zip(images, heights, strict=True)):
            if index == 0:
                figure.text(left / width, 1 - (top + CAPTION - 4) / height, captions[row],
                            size=7.5, color='0.35', va='bottom', parse_math=False)  # fmt: skip
            top += CAPTION
            bottom = 1 - (top + tall) / height
            axes = figure.add_axes((left / width, bottom, panel / width, tall / height))
            _panel(axes, canvas, image, column, row, panel / image.shape[1], classes)
            top += tall
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(path)


def class_colour(index: int, count: int) -> Colour:
    """The colour of a class, the same on every sheet with as many classes."""
    if count <= 20:
        return colormaps['tab10' if count <= 10 else 'tab20'](index)[:3]
    return colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.9, 0.6)[index % 2], 0.95)


def _head(canvas: FigureCanvasAgg, column: Column, centre: float, top: float) -> None:
    """Title and subtitle of a column, centred; or the meanings of its dots in their colours."""
    figure = canvas.figure
    width, height = figure.bbox.size
    figure.text(centre, top, column.title, size=11, weight='bold', ha='center', va='top')
    parts = [(f'● {name}', column.colours[name]) for name in column.dots]
    parts = parts or [(column.subtitle, '0.35')]
    font = FontProperties(family='DejaVu Sans', size=8)
    widths = [_text_size(canvas, text, font)[0] for text, _ in parts]
    left = centre * width - (sum(widths) + 12 * (len(parts) - 1)) / 2
    for (text, colour), wide in zip(parts, widths, strict=True):
        figure.text(left / width, top - 20 / height, text, fontproperties=font, color=colour,
                    va='top', parse_math=False)  # fmt: skip
        left += wide + 12


def _panel(
    axes: Axes, canvas: FigureCanvasAgg, image: np.ndarray, column: Column, row: int,
    zoom: float, classes: Sequence[str],
) -> None:  # fmt: skip
    """Draw one image with its boxes, labels and dots; ``zoom`` is sheet pixels per image pixel."""
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), aspect='auto')
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    boxes = column.boxes[row]
    order = np.arange(len(boxes.boxes)) if boxes.scores is None else np.argsort(-boxes.scores)
    taken: list[tuple[float, ...]] = []
    for index in order[:MOST_BOXES]:
        x1, y1, x2, y2 = boxes.boxes[index].tolist()
        label = int(boxes.labels[index])
        colour = 'white' if column.dots else class_colour(label, len(classes))
        for line, edge in ((2.6, (0, 0, 0, 0.6)), (1.3, colour)):
            axes.add_patch(
                Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=line)
            )
        if not column.dots:
            text = classes[label] if label < len(classes) else str(label)
            text += '' if boxes.scores is None else f' {boxes.scores[index]:.2f}'
            sheet = (width * zoom, height * zoom)
            place = _free_place(canvas, text, boxes.boxes[index] * zoom, sheet, taken)
            if place is not None:
                taken.append(place)
                _label(axes, text, place[0] / zoom, place[1] / zoom, colour)
    for name, dots in reversed(column.dots.items()):
        points = (dots[row].sizes * zoom * 72 / DPI) ** 2
        axes.scatter(*dots[row].centres.T, s=points, c=column.colours[name], alpha=0.75,
                     edgecolors='black', linewidths=0.3)  # fmt: skip


def _label(axes: Axes, text: str, x: float, y: float, colour: Colour) -> None:
    dark = np.dot(colour, (0.299, 0.587, 0.114)) < 0.55
    axes.text(x, y, text, fontproperties=LABEL_FONT, color='white' if dark else 'black', va='top',
              parse_math=False, clip_on=True,
              bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 1.2})  # fmt: skip


def _free_place(
    canvas: FigureCanvasAgg, text: str, box: np.ndarray, sheet: tuple[float, float],
    taken: list[tuple[float, ...]],
) -> tuple[float, ...] | None:  # fmt: skip
    """Where a label covers no other: xyxy on the panel, or None; all in sheet pixels."""
    wide, tall = (size + 5 for size in _text_size(canvas, text, LABEL_FONT))
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


def _text_size(canvas: FigureCanvasAgg, text: str, font: FontProperties) -> tuple[float, float]:
    renderer = canvas.get_renderer()
    wide, tall, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
    return wide, tall
