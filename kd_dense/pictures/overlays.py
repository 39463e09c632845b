"""What can be drawn over an image: boxes, dots, masks, heat maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from pycocotools import mask as rle

from .draw import IGNORED, Colour, Overlay, Panel

MOST_BOXES = 60  # per image, the surest
MASK_SHARE, HEAT_SHARE = 0.65, 0.85  # of the colour; the rest is the image in grey
TINT_SHARE = 0.45  # of an object's mask; the rest is the image
NEGATIVE, POSITIVE = (0.75, 0.08, 0.12), (0.07, 0.36, 0.68)  # of heat maps


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
        masks: run lengths of the whole image in any resolution, (B,); None for boxes alone.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    style: Style | None = None
    masks: np.ndarray | None = field(default=None, repr=False)

    def draw(self, panel: Panel) -> None:
        """Draw the surest boxes, with names where there is room, over their masks."""
        order = np.arange(len(self.boxes)) if self.scores is None else np.argsort(-self.scores)
        order = order[:MOST_BOXES]
        if self.masks is not None and len(order):
            panel.paint(self._tint(panel, order))
        for index in order:
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

    def _tint(self, panel: Panel, order: np.ndarray) -> np.ndarray:
        """Masks in the colours of their boxes, the first on top, and nothing elsewhere; RGBA."""
        picture = np.zeros((*panel.size, 4))
        for index in order[::-1]:
            inside = nearest(rle.decode(self.masks[index]), panel.size) > 0
            colour = self.style.colour if self.style else panel.classes.colour(self.labels[index])
            picture[inside] = (*to_rgb(colour), TINT_SHARE)
        return picture


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
