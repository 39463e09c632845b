"""One image, and what can be drawn over it: boxes, dots, masks, heat maps."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

IGNORED = -1  # instead of a class
MOST_BOXES = 60  # per image, the surest
MASK_SHARE, HEAT_SHARE = 0.65, 0.85  # of the colour; the rest is the image in grey
NEGATIVE, POSITIVE = (0.75, 0.08, 0.12), (0.07, 0.36, 0.68)  # of heat maps
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
        """Cover the image with a picture, (h, w, 3), RGB, of its shape but any resolution."""
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


class Style(NamedTuple):
    """How boxes are drawn, whatever their classes.

    Attributes:
        colour: as matplotlib takes it.
        line: its style, likewise.
        named: whether classes are named.
    """

    colour: str
    line: str = '-'
    named: bool = True


@dataclass(frozen=True)
class Boxes(Overlay):
    """B boxes with the names of their classes.

    Attributes:
        boxes: xyxy in pixels, (B, 4).
        labels: class indices, (B,).
        scores: (B,) or None.
        style: of all; None draws each in the colour of its class.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    style: Style | None = None

    def draw(self, panel: Panel) -> None:
        """Draw the surest boxes, with names where there is room."""
        order = np.arange(len(self.boxes)) if self.scores is None else np.argsort(-self.scores)
        for index in order[:MOST_BOXES]:
            x1, y1, x2, y2 = self.boxes[index].tolist()
            label = int(self.labels[index])
            style = self.style or Style(panel.classes.colour(label))
            for width, edge, line in ((2.6, (0, 0, 0, 0.6), '-'), (1.3, style.colour, style.line)):
                panel.axes.add_patch(
                    Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=edge,
                              linewidth=width, linestyle=line)
                )  # fmt: skip
            if style.named:
                text = panel.classes.name(label)
                text += '' if self.scores is None else f' {self.scores[index]:.2f}'
                panel.write(text, self.boxes[index], to_rgb(style.colour))


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
        points = (self.sizes * panel.zoom * 72 / panel.canvas.figure.dpi) ** 2
        panel.axes.scatter(*self.centres.T, s=points, c=self.colour, alpha=0.75,
                           edgecolors='black', linewidths=0.3)  # fmt: skip


@dataclass(frozen=True)
class Mask(Overlay):
    """The class of each pixel.

    Attributes:
        classes: indices, or :data:`IGNORED`, (h, w), of any resolution.
    """

    classes: np.ndarray = field(repr=False)

    def draw(self, panel: Panel) -> None:
        """Colour the regions, with a line between them; what is ignored is striped."""
        mask = nearest(self.classes, panel.size)
        colours = np.zeros((*mask.shape, 3))
        for index in self.keyed() - {IGNORED}:
            colours[mask == index] = panel.classes.colour(index)
        picture = MASK_SHARE * colours + (1 - MASK_SHARE) * panel.grey()
        ignored = mask == IGNORED
        picture[ignored] = stripes(mask.shape)[ignored]
        borders = np.zeros(mask.shape, bool)  # pixels unlike their left or upper neighbour
        borders[1:] |= mask[1:] != mask[:-1]
        borders[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        picture[borders] = (picture[borders] + 1) / 2
        panel.paint(picture)

    def keyed(self) -> set[int]:
        """All that the mask holds."""
        return set(np.unique(self.classes).tolist())


@dataclass(frozen=True)
class HeatMap(Overlay):
    """Values of coarse positions, in one colour below 0 and in another above.

    Attributes:
        values: (h, w); 0 shows the image in grey.
        limit: the absolute value that has the full colour, above 0.
        share: how much of the map's height and width lies on the image; the rest is its padding.
        colours: below 0, and above.
    """

    values: np.ndarray = field(repr=False)
    limit: float
    share: tuple[float, float] = (1.0, 1.0)
    colours: tuple[Colour, Colour] = (NEGATIVE, POSITIVE)

    def draw(self, panel: Panel) -> None:
        """Colour the image, the more the further a value is from 0."""
        whole = tuple(round(n / s) for n, s in zip(panel.size, self.share, strict=True))
        values = cv2.resize(self.values.astype(np.float32) / self.limit, whole[::-1])
        values = values[: panel.size[0], : panel.size[1], None].clip(-1, 1)
        share = HEAT_SHARE * np.abs(values) ** 0.8
        colours = np.where(values < 0, *self.colours)
        panel.paint(share * colours + (1 - share) * panel.grey())


def stripes(size: tuple[int, int]) -> np.ndarray:
    """Dark diagonal stripes, (h, w, 3), which no class looks like."""
    rows, columns = np.indices(size)
    return np.where((rows + columns) % 8 < 2, 0.6, 0.15)[..., None].repeat(3, axis=2)


def nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a mask (h, w) to another size by its nearest pixels."""
    given = torch.from_numpy(mask.astype(float))[None, None]
    return F.interpolate(given, size, mode='nearest-exact')[0, 0].numpy().astype(int)


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
