"""The handwriting: what may be drawn, from which samples, and how a sample becomes pen strokes.

It is real: the 1,797 digits of 8 x 8 pixels that scikit-learn ships [1], so nothing is downloaded.

1. E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning
   Repository, 1998. https://doi.org/10.24432/C50P49

Letters in shapes: M handwritten samples, G side of a glyph. Lengths are pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.random import Generator

from ..errors import SetupError

CLASSES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
SPLITS = ('train', 'val')
UPSCALE = 8


@dataclass(frozen=True)
class SceneSettings:
    """Every knob that sets how hard the scenes are; ranges are (low, high), both included.

    Args:
        size: Side of the square scene, pixels.
        digits: Digits in a scene.
        height: Height of a digit's ink before it is cut or covered, pixels, drawn log-uniformly.
        rotation: Largest rotation to either side, degrees.
        slant: Largest shear to either side, pixels of x for each pixel of y.
        aspect: Factor on a digit's width, drawn log-uniformly.
        stroke: Ink level, as a fraction of the darkest, at which a stroke ends: higher is thinner.
        contrast: Luma between ink and the ground it covers, as a fraction of the 8-bit range.
        opacity: How much of the ground the ink hides.
        clutter: Strength of the background's texture; 0 is one flat colour.
        distractors: Unlabelled marks under the digits.
        fragments: Share of the distractors that are pieces of handwriting.
        max_overlap: Largest part of a digit's box that the box of another one may share.
        max_cut: Largest part of a digit's width, and of its height, outside the scene.
        min_visible: Smallest part of a digit's ink that borders and later digits leave to see.
        attempts: Places tried for a digit before it is left out of the scene.
        blur: Sigma of the blur over the finished scene, pixels.
        noise: Sigma of the noise over the finished scene, 8-bit levels.
        empty: Share of training scenes without any digit.
        val_handwriting: Share of the handwritten samples kept for validation.

    Raises:
        ValueError: A range is upside down, or a value lies outside what it can mean.
    """

    size: int = 160
    digits: tuple[int, int] = (2, 7)
    height: tuple[float, float] = (12.0, 72.0)
    rotation: float = 18.0
    slant: float = 0.3
    aspect: tuple[float, float] = (0.8, 1.25)
    stroke: tuple[float, float] = (0.32, 0.55)
    contrast: tuple[float, float] = (0.15, 0.65)
    opacity: tuple[float, float] = (0.75, 1.0)
    clutter: float = 0.5
    distractors: tuple[int, int] = (3, 9)
    fragments: float = 0.4
    max_overlap: float = 0.35
    max_cut: float = 0.3
    min_visible: float = 0.5
    attempts: int = 20
    blur: tuple[float, float] = (0.0, 0.8)
    noise: float = 4.0
    empty: float = 0.02
    val_handwriting: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (value, value)
            if not 0 <= low <= high:
                raise ValueError(f'{field.name} must be 0 or more, low end first; got {value}')
        for name in ('fragments', 'max_overlap', 'max_cut', 'min_visible', 'empty'):
            if getattr(self, name) > 1:
                raise ValueError(f'{name} is a share of 1 at most; got {getattr(self, name)}')
        for name in ('contrast', 'opacity'):
            if getattr(self, name)[1] > 1:
                raise ValueError(f'{name} is a share of 1 at most; got {getattr(self, name)}')
        if self.height[0] < 4 or self.height[1] > self.size:
            raise ValueError(
                f'height must lie within 4 pixels and the size of the scene, {self.size}; '
                f'got {self.height}'
            )
        if self.aspect[0] == 0:
            raise ValueError(f'aspect must be more than 0; got {self.aspect}')
        if self.stroke[0] < 0.1 or self.stroke[1] > 0.7:
            raise ValueError(f'stroke must lie within 0.1 and 0.7; got {self.stroke}')
        if not 0 < self.val_handwriting < 1:
            raise ValueError(
                f'val_handwriting must lie between 0 and 1 to leave both splits samples; '
                f'got {self.val_handwriting}'
            )


@dataclass(frozen=True)
class Handwriting:
    """Samples to draw from: `glyphs` (M, G, G) uint8 ink, upright; `labels` (M,) 0 to 9."""

    glyphs: np.ndarray
    labels: np.ndarray

    def without(self, labels: Sequence[int]) -> 'Handwriting':
        """Return the samples of all other classes."""
        kept = ~np.isin(self.labels, labels)
        return Handwriting(self.glyphs[kept], self.labels[kept])


@dataclass(frozen=True)
class Stroke:
    """Ink to lay on a scene: `alpha` (h, w) float32 in 0..1, top left corner at `x`, `y`."""

    alpha: np.ndarray
    x: int
    y: int

    def within(self, size: int) -> tuple[tuple[slice, slice], np.ndarray]:
        """Return the part of a (size, size) scene that it touches, and its alpha there."""
        h, w = self.alpha.shape
        left, top = max(self.x, 0), max(self.y, 0)
        right, bottom = min(self.x + w, size), min(self.y + h, size)
        alpha = self.alpha[top - self.y : bottom - self.y, left - self.x : right - self.x]
        return (slice(top, bottom), slice(left, right)), alpha


def split_handwriting(
    labels: np.ndarray, seed: int, val_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split sample indices into training and validation, class by class.

    Args:
        labels: (M,) classes of the samples.
        seed: Fixes the split.
        val_share: Share of each class that validation gets.

    Returns:
        Sorted indices for training and for validation; together each sample once.
    """
    rng = np.random.default_rng([seed, len(SPLITS)])
    val = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        val.append(members[: max(1, round(val_share * len(members)))])
    chosen = np.sort(np.concatenate(val))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def load_handwriting(seed: int, val_share: float) -> dict[str, Handwriting]:
    """Return the handwriting of each split, upscaled to smooth pen strokes with a margin.

    Raises:
        SetupError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SetupError(
            f'The handwriting comes with scikit-learn, which cannot be imported here ({error}): '
            "pip install 'kd_dense[digits]'."
        ) from error
    data = load_digits()
    padded = np.pad(data.images / 16, ((0, 0), (2, 2), (2, 2))).astype(np.float32)
    size = (UPSCALE * padded.shape[2], UPSCALE * padded.shape[1])
    large = [cv2.resize(x, size, interpolation=cv2.INTER_CUBIC) for x in padded]
    # Unsharp masking over one cell opens the small loops that 8 x 8 pixels blur shut.
    sharp = np.stack([x + 0.8 * (x - cv2.GaussianBlur(x, (0, 0), UPSCALE)) for x in large])
    glyphs = (255 * sharp.clip(0, 1)).round().astype(np.uint8)
    parts = split_handwriting(data.target, seed, val_share)
    return {
        split: Handwriting(glyphs[index], data.target[index])
        for split, index in zip(SPLITS, parts, strict=True)
    }


def warp_glyph(
    rng: Generator, glyph: np.ndarray, height: float, settings: SceneSettings, turn: float = 0.0
) -> np.ndarray:
    """Slant, stretch and rotate a glyph into soft ink that is `height` pixels tall.

    Args:
        rng: Generator.
        glyph: (G, G) uint8.
        height: Of the ink after the warp, pixels.
        settings: Ranges of slant, aspect, rotation and stroke.
        turn: Rotation on top of the drawn one, degrees.

    Returns:
        Alpha (h, w), a margin of 2 pixels around the ink.
    """
    angle = np.deg2rad(turn + rng.uniform(-settings.rotation, settings.rotation))
    slant = rng.uniform(-settings.slant, settings.slant)
    aspect = np.exp(rng.uniform(*np.log(settings.aspect)))
    level = rng.uniform(*settings.stroke)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[aspect, -slant], [0, 1]])
    points = cv2.findNonZero((glyph > 255 * level).astype(np.uint8)).reshape(-1, 2) @ matrix.T
    matrix *= height / (np.ptp(points[:, 1]) + 1)
    scale = height / (np.ptp(points[:, 1]) + 1)
    low, extent = points.min(0) * scale, np.ptp(points, 0) * scale
    factor = max(1, 2 ** int(np.log2(max(1 / scale, 1))))  # shrink first: a warp would alias
    small = cv2.resize(glyph, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
    shift = matrix @ np.full(2, (factor - 1) / 2) + 2 - low
    warp = np.column_stack([matrix * factor, shift])
    width, tall = (np.ceil(extent).astype(int) + 5).tolist()
    ink = cv2.warpAffine(small, warp, (width, tall), flags=cv2.INTER_CUBIC) / np.float32(255)
    soft = min(np.clip(4 / height, 0.06, 0.3), level)
    ramp = np.clip((ink - level + soft) / (2 * soft), 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
