"""Images with what was annotated and predicted, as inline SVG over embedded pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from ..pictures.panel import Classes
from .outcomes import Matches, Objects, match

LONGEST = 640  # pixels of an embedded picture's longer side
SMALL = 120_000  # pixels, up to which a picture is kept without loss
MASK_SHARE = 0.62  # of a class's colour over the image
GAINED, LOST = (0, 133, 110), (196, 48, 43)


def data_url(pixels: np.ndarray) -> str:
    """A picture (H, W, 3 or 4), RGB, as an address that holds all of it."""
    if pixels.shape[2] == 4:
        kind, picture = '.png', cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    else:
        kind = '.png' if pixels.shape[0] * pixels.shape[1] <= SMALL else '.jpg'
        picture = np.ascontiguousarray(pixels[..., ::-1])
    _, data = cv2.imencode(kind, picture, [cv2.IMWRITE_JPEG_QUALITY, 88] if kind == '.jpg' else [])
    mime = 'png' if kind == '.png' else 'jpeg'
    return f'data:image/{mime};base64,{base64.b64encode(data).decode()}'


def smaller(pixels: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """A picture with its longer side cut down, where it is longer."""
    factor = longest / max(pixels.shape[:2])
    if factor >= 1:
        return pixels
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def definition(name: str, pixels: np.ndarray) -> str:
    """A picture that others on the page refer to, so that it is embedded once."""
    height, width = pixels.shape[:2]
    return (
        f'<image id="{name}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="{data_url(smaller(pixels))}"/>'
    )


def boxes(
    picture: str, size: tuple[int, int], truth: Objects, found: Objects | None, classes: Classes,
    threshold: float,
) -> str:  # fmt: skip
    """An image with boxes.

    Args:
        picture: name of its definition.
        size: height and width.
        truth: what was annotated.
        found: what was detected; None draws what was annotated.
        classes: names.
        threshold: lowest score of what is drawn.
    """
    unit = max(size) / 100  # so that letters are as large on every image
    marks = []  # kind, box, text, tooltip; those drawn last are on top
    if found is None:
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            marks.append(('truth', box, classes.name(int(label)), ''))
    else:
        found = found.above(threshold)
        outcome: Matches = match(truth, found)
        for box, label in zip(
            truth.boxes[~outcome.found], truth.labels[~outcome.found], strict=True
        ):
            marks.append(('missed', box, '', f'missed: {classes.name(int(label))}'))
        for index in sorted(range(len(found)), key=lambda i: (outcome.right[i], -i)):
            kind = 'right' if outcome.right[index] else 'wrong'
            kind = 'neutral' if outcome.neutral[index] else kind
            text = f'{classes.name(int(found.labels[index]))} {found.scores[index]:.2f}'
            marks.append((kind, found.boxes[index], text, ''))
    drawn = [_box(kind, box, tip or text) for kind, box, text, tip in marks]
    taken: list[tuple[float, ...]] = []
    labels = [_label(kind, box, text, unit, size, taken) for kind, box, text, _ in marks[::-1]]
    return ''.join([_begin(size), f'<use href="#{picture}"/>', *drawn, *labels[::-1], '</svg>'])


def _begin(size: tuple[int, int]) -> str:
    return f'<svg class="picture" viewBox="0 0 {size[1]} {size[0]}">'


def _box(kind: str, box: np.ndarray, tip: str) -> str:
    x1, y1, x2, y2 = (float(v) for v in box)
    return (
        f'<g class="{kind}"><title>{escape(tip)}</title><rect x="{x1:.1f}" y="{y1:.1f}" '
        f'width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"/></g>'
    )


def _label(
    kind: str,
    box: np.ndarray,
    text: str,
    unit: float,
    size: tuple[int, int],
    taken: list[tuple[float, ...]],
) -> str:
    """A name beside its box, where there is room; the others have a tooltip only.

    Args:
        kind: class in the page's sheet.
        box: xyxy.
        text: the name.
        unit: a hundredth of the image.
        size: height and width of the image.
        taken: where labels are already, xyxy; the new one is added.
    """
    font = 4.7 * unit
    wide, tall = 0.6 * font * len(text), 1.05 * font
    x1, y1, x2, y2 = (float(v) for v in box)
    right = x2 - wide
    places = [(x1, y1 - tall), (x1, y2), (right, y1 - tall), (right, y2), (x1, y1), (x1, y2 - tall)]
    for x, y in places if text else ():
        x = min(max(x, unit / 2), size[1] - wide)
        place = (x, y, x + wide, y + tall)
        inside = x >= 0 and y >= 0 and place[3] <= size[0]
        if inside and not any(_meet(place, other) for other in taken):
            taken.append(place)
            return (
                f'<text class="{kind}" x="{x:.1f}" y="{y + 0.82 * tall:.1f}" '
                f'font-size="{font:.2f}" stroke-width="{0.8 * unit:.2f}">{escape(text)}</text>'
            )
    return ''


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def masks(picture: str, labels: np.ndarray, classes: Classes, ignored: int = 255) -> str:
    """An image with the class of each pixel over it."""
    colours = np.zeros((256, 4), np.uint8)
    for index in np.unique(labels[labels != ignored]):
        colour = [round(255 * part) for part in classes.colour(int(index))]
        colours[index] = (*colour, round(255 * MASK_SHARE))
    colours[ignored] = (40, 40, 40, 215)
    return _covered(picture, labels.shape, colours[labels.astype(np.uint8)])


def changes(
    picture: str, truth: np.ndarray, alone: np.ndarray, distilled: np.ndarray, ignored: int = 255
) -> str:
    """An image with the pixels that distillation gained and lost."""
    cover = np.zeros((*truth.shape, 4), np.uint8)
    cover[...] = (255, 255, 255, 120)
    counts = truth != ignored
    cover[counts & (alone != truth) & (distilled == truth)] = (*GAINED, 235)
    cover[counts & (alone == truth) & (distilled != truth)] = (*LOST, 235)
    return _covered(picture, truth.shape, cover)


def _covered(picture: str, size: tuple[int, int], cover: np.ndarray) -> str:
    height, width = size
    if max(size) > LONGEST:
        factor = LONGEST / max(size)
        small = (round(width * factor), round(height * factor))
        cover = cv2.resize(cover, small, interpolation=cv2.INTER_NEAREST)
    return (
        f'{_begin(size)}<use class="grey" href="#{picture}"/>'
        f'<image width="{width}" height="{height}" '
        f'preserveAspectRatio="none" class="cover" href="{data_url(cover)}"/></svg>'
    )


def swatches(classes: Classes, used: Sequence[int]) -> list[tuple[str, str]]:
    """Names and colours of classes, as a sheet writes them."""
    return [
        (classes.name(i), 'rgb({:.0f},{:.0f},{:.0f})'.format(*(255 * c for c in classes.colour(i))))
        for i in used
    ]
