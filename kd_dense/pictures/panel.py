"""One image on a sheet, and what everything that is drawn over it has in common."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontProperties

DPI = 100
IGNORED = -1  # instead of a class
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
    """An image on the sheet, to draw over.

    Attributes:
        axes: in pixels of the image.
        canvas: of the sheet.
        image: (H, W, 3), uint8, RGB.
        size: (height, width) in pixels of the sheet.
        classes: what the class indices stand for.
    """

    axes: Axes
    canvas: FigureCanvasAgg
    image: np.ndarray
    size: tuple[int, int]
    classes: Classes

    @property
    def zoom(self) -> float:
        """Sheet pixels per image pixel."""
        return self.size[1] / self.image.shape[1]

    def paint(self, picture: np.ndarray) -> None:
        """Cover the image with a picture, (h, w, 3), RGB, of its shape but any resolution."""
        height, width = self.image.shape[:2]
        self.axes.imshow(picture, extent=(0, width, height, 0), aspect='auto')

    def grey(self) -> np.ndarray:
        """The image in grey, in the sheet's resolution: (h, w, 1) between 0 and 1."""
        grey = (self.image @ np.array((0.299, 0.587, 0.114)) / 255).astype(np.float32)
        smaller = self.size[0] < grey.shape[0]
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        return cv2.resize(grey, self.size[::-1], interpolation=how)[..., None]


class Overlay:
    """Something that is drawn over an image."""

    def draw(self, panel: Panel) -> None:
        """Draw it."""
        raise NotImplementedError

    def keyed(self) -> set[int]:
        """Classes, or :data:`IGNORED`, that the sheet's key has to tell."""
        return set()


def text_size(canvas: FigureCanvasAgg, text: str, font: FontProperties) -> tuple[float, float]:
    """Width and height of a text in pixels of the sheet."""
    renderer = canvas.get_renderer()
    wide, tall, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
    return wide, tall
