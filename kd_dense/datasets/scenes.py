"""Draw scenes of handwritten digits on textured clutter.

Letters in shapes: S side of the square scene, N digits in it. Lengths are pixels; images are RGB,
float32 in 0..255 while drawing, uint8 when done.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from .digits import UPSCALE, Handwriting, SceneSettings, Stroke, warp_glyph

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Args:
        image: (S, S, 3) uint8, RGB.
        masks: (N, S, S) bool, the visible ink of each digit; no two share a pixel.
        labels: (N,) class indices, 0 to 9.
        truncated: (N,) bool, whether the border cuts the digit.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    truncated: np.ndarray


def draw_scene(
    rng: Generator, handwriting: Handwriting, settings: SceneSettings, empty: bool = False
) -> Scene:
    """Place digits, then draw ground, distractors and the digits that found a place.

    Args:
        rng: The scene's own generator.
        handwriting: Samples of the scene's split.
        settings: How hard the scene is.
        empty: Leave out all digits.
    """
    size = settings.size
    count = 0 if empty else int(rng.integers(settings.digits[0], settings.digits[1] + 1))
    strokes, labels, owner = _place_digits(rng, handwriting, settings, count)
    image = _ground(rng, settings)
    for _ in range(rng.integers(settings.distractors[0], settings.distractors[1] + 1)):
        _distract(rng, image, handwriting, settings)
    for stroke in strokes:
        _ink(rng, image, stroke, settings)
    sigma = rng.uniform(*settings.blur)
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    image += settings.noise * rng.standard_normal(image.shape, np.float32)
    masks = owner == np.arange(len(strokes)).reshape(-1, 1, 1)
    cut = [(s.alpha > 0.5).sum() > (s.within(size)[1] > 0.5).sum() for s in strokes]
    return Scene(
        image.clip(0, 255).round().astype(np.uint8),
        masks,
        np.array(labels, np.int64),
        np.array(cut, bool),
    )


def _place_digits(
    rng: Generator, handwriting: Handwriting, settings: SceneSettings, count: int
) -> tuple[list[Stroke], list[int], np.ndarray]:
    """Find places for up to `count` digits; `owner` (S, S) names the digit seen, -1 for none."""
    owner = np.full((settings.size, settings.size), -1, np.int64)
    strokes: list[Stroke] = []
    labels: list[int] = []
    for _ in range(count):
        sample = rng.integers(len(handwriting.labels))
        height = np.exp(rng.uniform(*np.log(settings.height)))
        alpha = warp_glyph(rng, handwriting.glyphs[sample], height, settings)
        for _ in range(settings.attempts):
            stroke = Stroke(alpha, *_corner(rng, alpha.shape, settings))
            if _fits(stroke, strokes, owner, settings):
                where, inside = stroke.within(settings.size)
                owner[where][inside > 0.5] = len(strokes)
                strokes.append(stroke)
                labels.append(int(handwriting.labels[sample]))
                break
    return strokes, labels, owner


def _corner(rng: Generator, shape: tuple[int, int], settings: SceneSettings) -> tuple[int, int]:
    """Draw a top left corner (x, y) that leaves at most `max_cut` of each side outside."""
    height, width = shape
    cut, size = settings.max_cut, settings.size
    x = rng.uniform(-cut * width, max(size - (1 - cut) * width, 0))
    y = rng.uniform(-cut * height, max(size - (1 - cut) * height, 0))
    return round(x), round(y)


def _fits(stroke: Stroke, others: list[Stroke], owner: np.ndarray, settings: SceneSettings) -> bool:
    """Say whether this digit and all earlier ones stay visible enough with it on top."""
    where, inside = stroke.within(settings.size)
    ink = inside > 0.5
    if ink.sum() < max(settings.min_visible * (stroke.alpha > 0.5).sum(), 1):
        return False
    seen_before = np.bincount(owner[owner >= 0], minlength=len(others))
    under = owner[where][ink]
    covered = np.bincount(under[under >= 0], minlength=len(others))
    for other, before, lost in zip(others, seen_before, covered, strict=True):
        if before - lost < settings.min_visible * (other.alpha > 0.5).sum():
            return False
        if _overlap(stroke, other) > settings.max_overlap:
            return False
    return True


def _overlap(a: Stroke, b: Stroke) -> float:
    """Return the intersection of two patches over the area of the smaller one."""
    (ah, aw), (bh, bw) = a.alpha.shape, b.alpha.shape
    width = min(a.x + aw, b.x + bw) - max(a.x, b.x)
    height = min(a.y + ah, b.y + bh) - max(a.y, b.y)
    return max(width, 0) * max(height, 0) / min(ah * aw, bh * bw)


def _ink(rng: Generator, image: np.ndarray, stroke: Stroke, settings: SceneSettings) -> None:
    """Lay a stroke on the image in a colour that differs in luma from what it covers."""
    where, alpha = stroke.within(settings.size)
    if alpha.sum() == 0:
        return
    patch = image[where]
    ground = np.average(patch.reshape(-1, 3), 0, alpha.reshape(-1))
    step = 255 * rng.uniform(*settings.contrast)
    luma = float(ground @ LUMA)
    up = rng.random() < 0.5
    if luma + step > 250 or luma - step < 5:
        up = luma < 127
    tint = rng.normal(0, 30, 3)
    colour = ground + (step if up else -step) + tint - tint @ LUMA
    weight = alpha[..., None] * np.float32(rng.uniform(*settings.opacity))
    patch += weight * (colour.clip(0, 255).astype(np.float32) - patch)


def _octaves(rng: Generator, size: int, cells: tuple[int, ...]) -> np.ndarray:
    """Return (size, size) smooth noise of zero mean, one octave for each count of cells."""
    total = np.zeros((size, size), np.float32)
    for i, n in enumerate(cells):
        grid = rng.standard_normal((n, n), np.float32)
        total += 0.6**i * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return total - total.mean()


def _ground(rng: Generator, settings: SceneSettings) -> np.ndarray:
    """Return a textured background: colour, gradient, noise, stripes or checks."""
    size, clutter = settings.size, settings.clutter
    colour = rng.uniform(60, 195) + rng.normal(0, 22, 3)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    slope = (x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0, 120)
    relief = _octaves(rng, size, (3, 6, 12, 24, 48)) * rng.uniform(5, 40)
    if rng.random() < 0.5:
        turn, cycles = rng.uniform(0, np.pi), rng.uniform(4, 16)
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        wave = np.sin(2 * np.pi * cycles * u)
        if rng.random() < 0.5:
            wave *= np.sin(2 * np.pi * cycles * v)
        wave = np.clip(wave * rng.uniform(1, 6), -1, 1) * rng.uniform(10, 45)
        relief += wave * np.clip(0.5 + _octaves(rng, size, (2, 4)), 0, 1)
    shades = (slope + relief)[..., None] * rng.uniform(0.5, 1.3, 3)
    tints = np.stack([_octaves(rng, size, (2, 5)) for _ in range(3)], -1) * rng.uniform(0, 22)
    return (colour + clutter * (shades + tints)).clip(0, 255).astype(np.float32)


def _distract(
    rng: Generator, image: np.ndarray, handwriting: Handwriting, settings: SceneSettings
) -> None:
    """Draw one unlabelled mark: a piece of a digit, a line, an open arc or a filled ellipse.

    Closed rings and short upright bars are left out: they would be readable zeros and ones.
    """
    size = settings.size
    if rng.random() < settings.fragments:
        stroke = _fragment(rng, handwriting, settings)
    else:
        alpha = np.zeros((size, size), np.uint8)
        centre = rng.integers(0, size, 2).tolist()
        kind, thick = rng.integers(3), int(rng.integers(1, 4))
        if kind == 0:
            reach = rng.integers(-size, size, (2, 2)) + centre
            cv2.line(alpha, *reach.tolist(), 255, thick, cv2.LINE_AA)
        else:
            axes = rng.integers(size // 20, size // 4, 2).tolist()
            start, turn = rng.uniform(0, 360), rng.uniform(0, 180)
            span, width = (rng.uniform(40, 170), thick) if kind == 1 else (360, cv2.FILLED)
            cv2.ellipse(alpha, centre, axes, turn, start, start + span, 255, width, cv2.LINE_AA)
        stroke = Stroke(alpha.astype(np.float32) / 255, 0, 0)
    _ink(rng, image, stroke, settings)


def _fragment(rng: Generator, handwriting: Handwriting, settings: SceneSettings) -> Stroke:
    """Cut a corner out of a handwritten digit and turn it any way."""
    glyph = handwriting.glyphs[rng.choice(np.flatnonzero(handwriting.labels != 1))]
    middle, side = glyph.shape[0] // 2, glyph.shape[0] // 2
    top, left = rng.integers(0, 2, 2) * middle
    piece = np.zeros_like(glyph)
    piece[top : top + side, left : left + side] = glyph[top : top + side, left : left + side]
    if piece.max() < 255 * settings.stroke[1] + 1:  # an empty corner
        piece = glyph.copy()
        piece[:middle] = 0
    rows = np.flatnonzero(piece.max(1) > 255 * settings.stroke[1])
    share = (rows[-1] - rows[0] + 1) / (glyph.shape[0] - 4 * UPSCALE)
    height = max(share * np.exp(rng.uniform(*np.log(settings.height))), 4)
    alpha = warp_glyph(rng, piece, height, settings, turn=rng.uniform(0, 360))
    corner = (rng.random(2) * settings.size - np.array(alpha.shape[::-1]) / 2).round()
    return Stroke(alpha, *corner.astype(int).tolist())
