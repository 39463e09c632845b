"""One image, and places for names over it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

IGNORED = -1  # instead of a class
LABEL_FONT = FontProperties(family='DejaVu Sans', size=7)
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Classes:
    """Names and colours of classes by index.

    Attributes:
        names: a class without one is called by its index.
        palette: RGB between 0 and 1; a class without a colour gets :func:`class_colour`.
    """

    names: Sequence[str] = ()
    palette: Sequence[Colour] = ()

    def name(self, index: int) -> str:
        """The name of a class."""
        if index == IGNORED:
            return 'not annotated'
        return self.names[index] if index < len(self.names) else str(index)

    def colour(self, index: int) -> Colour:
        """The colour of a class."""
        known = index < len(self.palette)
        return self.palette[index] if known else class_colour(index, len(self.names))


def class_colour(index: int, count: int) -> Colour:
    """The colour of a class, the same on every sheet with as many classes."""
    if count <= 20:
        return colormaps['tab10' if count <= 10 else 'tab20'](index)[:3]
    return colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.9, 0.6)[index % 2], 0.95)


@dataclass(frozen=True)
class Panel:
    """An image on a canvas, to draw over.

    Attributes:
        axes: in pixels of the image.
        canvas: that it lies on.
        image: (H, W, 3), uint8, RGB.
        size: (height, width) in pixels of the canvas.
        classes: what the class indices stand for.
        taken: places of names, xyxy in pixels of the panel, which others keep clear of.
    """

    axes: Axes
    canvas: FigureCanvasAgg
    image: np.ndarray
    size: tuple[int, int]
    classes: Classes
    taken: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def zoom(self) -> float:
        """Canvas pixels per image pixel."""
        return self.size[1] / self.image.shape[1]

    def paint(self, picture: np.ndarray) -> None:
        """Cover the image with a picture, RGB or RGBA, of its shape but any resolution."""
        height, width = self.image.shape[:2]
        self.axes.imshow(picture, extent=(0, width, height, 0), aspect='auto')

    def grey(self) -> np.ndarray:
        """The image in grey, in the canvas's resolution: (h, w, 1) between 0 and 1."""
        grey = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        smaller = self.size[0] < grey.shape[0]
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        return cv2.resize(grey, self.size[::-1], interpolation=how)[..., None]

    def write(self, text: str, box: np.ndarray, colour: Colour) -> None:
        """Write a name at its box, where there is room.

        Args:
            text: the name.
            box: xyxy in pixels of the image.
            colour: of what is behind it.
        """
        place = free_place(self.canvas, text, box * self.zoom, self.size[::-1], self.taken)
        if place is None:
            return
        self.taken.append(place)
        dark = np.dot(colour, (0.299, 0.587, 0.114)) < 0.55
        self.axes.text(
            place[0] / self.zoom, place[1] / self.zoom, text, fontproperties=LABEL_FONT,
            color='white' if dark else 'black', va='top', parse_math=False, clip_on=True,
            bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 1.2},
        )  # fmt: skip


class Overlay:
    """Something that is drawn over an image."""

    def draw(self, panel: Panel) -> None:
        """Draw it."""
        raise NotImplementedError

    def keyed(self) -> set[int]:
        """Classes, or :data:`IGNORED`, that are told by colour alone and need a key."""
        return set()


def draw_over(
    canvas: FigureCanvasAgg,
    place: tuple[float, float, float, float],
    image: np.ndarray,
    overlays: Sequence[Overlay],
    classes: Classes,
) -> None:
    """Draw an image on a canvas, and overlays over it.

    Args:
        canvas: to draw on.
        place: left, bottom, width and height, as shares of the canvas.
        image: (H, W, 3), uint8, RGB.
        overlays: in the order in which they are drawn, and their names placed.
        classes: what the class indices stand for.
    """
    axes = canvas.figure.add_axes(place)
    axes.set_axis_off()
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    width, height = canvas.figure.bbox.size
    panel = Panel(axes, canvas, image, (round(place[3] * height), round(place[2] * width)), classes)
    panel.paint(image)
    for overlay in overlays:
        overlay.draw(panel)


def draw_image(
    image: np.ndarray, overlays: Sequence[Overlay], classes: Classes, width: int = 480
) -> np.ndarray:
    """Draw an image alone, with lines and letters to be read in half its size.

    Args:
        image, overlays, classes: see :func:`draw_over`.
        width: of the picture, in pixels.

    Returns:
        (H, ``width``, 3), uint8, RGB.
    """
    size, dpi = (width, round(width * image.shape[0] / image.shape[1])), 200
    canvas = FigureCanvasAgg(Figure([side / dpi for side in size], dpi=dpi))
    draw_over(canvas, (0, 0, 1, 1), image, overlays, classes)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def text_size(canvas: FigureCanvasAgg, text: str, font: FontProperties) -> tuple[float, float]:
    """Width and height of a text in pixels of the canvas."""
    renderer = canvas.get_renderer()
    wide, tall, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
    return wide, tall


def free_place(
    canvas: FigureCanvasAgg, text: str, box: np.ndarray, size: tuple[float, float],
    taken: Sequence[tuple[float, ...]],
) -> tuple[float, ...] | None:  # fmt: skip
    """Where a name at a box covers no other; None where there is no room.

    Args:
        canvas: that it is written on.
        text: the name.
        box: xyxy, like all places here in pixels of the panel.
        size: width and height of the panel.
        taken: places of other names.
    """
    wide, tall = (side + 5 for side in text_size(canvas, text, LABEL_FONT))
    x1, y1, x2, y2 = box.tolist()
    places = [
        (x1, y1 - tall), (x1, y2 + 2), (x2 - wide, y1 - tall), (x2 - wide, y2 + 2),
        (x1 + 2, y1 + 2), (x1 + 2, y2 - tall), (x2 + 2, y1), (x1 - wide, y1),
        (x2 + 2, y2 - tall), (x1 - wide, y2 - tall),
    ]  # fmt: skip
    for x, y in places:
        x = min(max(x, 2), size[0] - wide)
        place = (x, y, x + wide, y + tall)
        if 2 <= y <= size[1] - tall and not any(
            x < right and left < place[2] and y < bottom and top < place[3]
            for left, top, right, bottom in taken
        ):
            return place
    return None
