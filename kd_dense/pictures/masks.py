"""Masks of classes, and heat maps."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from .panel import IGNORED, Overlay, Panel

MASK_SHARE, HEAT_SHARE = 0.65, 0.85  # of the colour; the rest is the image in grey
NEGATIVE, POSITIVE = (0.75, 0.08, 0.12), (0.07, 0.36, 0.68)  # of heat maps


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
        borders = _borders(mask)
        picture[borders] = (picture[borders] + 1) / 2
        panel.paint(picture)

    def keyed(self) -> set[int]:
        """All that the mask holds."""
        return set(np.unique(self.classes).tolist())


@dataclass(frozen=True)
class HeatMap(Overlay):
    """Values of coarse positions, red below 0 and blue above.

    Attributes:
        values: (h, w); 0 shows the image in grey.
        limit: the absolute value that has the full colour, above 0.
        share: how much of the map's height and width lies on the image; the rest is its padding.
    """

    values: np.ndarray = field(repr=False)
    limit: float
    share: tuple[float, float] = (1.0, 1.0)

    def draw(self, panel: Panel) -> None:
        """Colour the image, the more the further a value is from 0."""
        whole = tuple(round(n / s) for n, s in zip(panel.size, self.share, strict=True))
        values = cv2.resize(self.values.astype(np.float32) / self.limit, whole[::-1])
        values = values[: panel.size[0], : panel.size[1], None].clip(-1, 1)
        share = HEAT_SHARE * np.abs(values) ** 0.8
        colours = np.where(values < 0, NEGATIVE, POSITIVE)
        panel.paint(share * colours + (1 - share) * panel.grey())


def stripes(size: tuple[int, int]) -> np.ndarray:
    """Dark diagonal stripes, (h, w, 3), which no class looks like."""
    rows, columns = np.indices(size)
    return np.where((rows + columns) % 8 < 2, 0.6, 0.15)[..., None].repeat(3, axis=2)


def nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a mask (h, w) to another size by its nearest pixels."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def _borders(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their left or upper neighbour; bool, (h, w)."""
    borders = np.zeros(mask.shape, bool)
    borders[1:] |= mask[1:] != mask[:-1]
    borders[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    return borders
