"""What distillation changed, and images of it and of all models, as the template shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from ..pictures import Column, Result, Sample, draw_image, draw_sheet, evenly
from ..pictures.draw import IGNORED, Overlay
from ..pictures.overlays import HeatMap, Style
from ..pictures.samples import boxes_of, overlay
from .evidence import Evidence, most
from .numbers import first
from .outcomes import match
from .runs import ALONE, DISTILLED, TEACHER, Run

MOST_CLASSES = 30  # in the key of the pictures
TRUTH, RIGHT = Style('white'), Style('#12c9a7')
WRONG, MISSED, NEUTRAL = Style('#ff5a52', '--'), Style('#ffd84d', ':'), Style('#b9c0ca')
LOST, GAINED = (0.77, 0.19, 0.17), (0.0, 0.52, 0.43)
BOX_KEY = (
    ('line', RIGHT.colour, 'right: the class, and IoU of 0.5 or more'),
    ('dashes', WRONG.colour, 'wrong'),
    ('dots', '#e3b600', 'missed'),
)
CHANGE_KEY = (('', to_hex(GAINED), 'gained'), ('', to_hex(LOST), 'lost'))


def pictures(runs: Sequence[Run], evidence: Evidence, show: int) -> dict[str, Any]:
    """What distillation changed, and images of it and of all models."""
    ran = [run for run in runs if run.name in evidence.results]
    alone, pupils = first(ran, ALONE), [run for run in ran if run.role == DISTILLED]
    changes = [(alone, r, evidence.change(alone, r)) for r in pupils] if alone else []
    sample = evenly(len(evidence.samples), show) if ran else []
    helped, hurt = most(changes[0][2], show) if changes else ([], [])
    pair = changes[0][:2] if changes else None
    columns = _columns(ran)
    rows = {i: _row(evidence, i, columns, pair) for i in {*sample, *helped, *hurt}}
    return dict(
        changes=changes,
        helped=[rows[i] for i in helped],
        hurt=[rows[i] for i in hurt],
        sample=[rows[i] for i in sample],
        picture_key=_key(evidence, set(rows)) if rows else [],
    )


def write_sheet(path: Path, runs: Sequence[Run], evidence: Evidence, show: int) -> bool:
    """Draw a row for each image, a column for each model as PNG; False where none predicted."""
    if not evidence.results:
        return False
    places = evenly(len(evidence.samples), show)
    columns = [('annotated', '', evidence.truths)]
    columns += [
        (r.name, r.role, evidence.results[r.name]) for r in runs if r.name in evidence.results
    ]
    sheet = [
        Column(title, role, [[overlay(found[i], evidence.threshold)] for i in places])
        for title, role, found in columns
    ]
    draw_sheet(path, [evidence.samples[i].pixels for i in places], sheet, evidence.classes)
    return True


def _columns(ran: Sequence[Run]) -> Sequence[Run]:
    """The models that pictures show: all, or where they are many the teachers and three more."""
    if len(ran) <= 4:
        return ran
    teachers, alone, distilled = (
        [run for run in ran if run.role == role] for role in (TEACHER, ALONE, DISTILLED)
    )
    return [*teachers, *alone[:1], *distilled[:2]]


def _row(
    evidence: Evidence, index: int, columns: Sequence[Run], pair: tuple[Run, Run] | None
) -> dict[str, Any]:
    """One image: what was annotated, and what each model sees."""
    sample = evidence.samples[index]
    shots = [
        (title, _data_url(draw_image(sample.pixels, overlays, evidence.classes)))
        for title, overlays in _overlays(evidence, index, columns, pair)
    ]
    return dict(index=index, name=sample.name, shots=shots)


def _overlays(
    evidence: Evidence, index: int, columns: Sequence[Run], pair: tuple[Run, Run] | None
) -> Iterator[tuple[str, list[Overlay]]]:
    """Titles, and what to draw over an image."""
    sample = evidence.samples[index]
    results = {name: found[index] for name, found in evidence.results.items()}
    if not evidence.segments:
        yield 'annotated', [boxes_of(sample.truth.counted(), TRUTH)]
        for run in columns:
            yield run.name, _judged(sample, results[run.name], evidence.threshold)
        return
    yield 'annotated', [overlay(sample.truth)]
    for run in columns:
        yield run.name, [overlay(results[run.name])]
    if pair:
        alone, distilled = (
            ((results[run.name] == sample.truth) & (sample.truth != IGNORED)).astype(int)
            for run in pair
        )
        yield 'gained and lost', [HeatMap(distilled - alone, 1, colours=(LOST, GAINED))]


def _judged(sample: Sample, found: Result, threshold: float) -> list[Overlay]:
    """Detections by whether they are right, and what was missed."""
    found = found.above(threshold)
    outcome = match(sample.truth, found)
    kinds = {RIGHT: outcome.right, NEUTRAL: outcome.neutral}
    kinds[WRONG] = ~(outcome.right | outcome.neutral)
    drawn = [boxes_of(found[those], style) for style, those in kinds.items()]
    missed = ~outcome.found & sample.truth.counts
    return [*drawn, boxes_of(replace(sample.truth[missed], masks=None), MISSED)]


def _data_url(pixels: np.ndarray) -> str:
    """A picture (H, W, 3), RGB, as an address that holds all of it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'WEBP', quality=88)
    return f'data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}'


def _key(evidence: Evidence, shown: set[int]) -> list[tuple[str, str, str]]:
    """What the colours of the pictures mean: kind of mark, colour and words."""
    if not evidence.segments:
        above = f'detections with a score above {evidence.threshold:g}'
        return [*BOX_KEY, ('none', '', above)]
    everything = [evidence.truths, *evidence.results.values()]
    used = set().union(*(np.unique(found[i]).tolist() for found in everything for i in shown))
    classes = [
        ('', to_hex(evidence.classes.colour(i)), evidence.classes.name(i))
        for i in sorted(used - {IGNORED})[:MOST_CLASSES]
    ]
    striped = [('stripes', '', evidence.classes.name(IGNORED))] * (IGNORED in used)
    return [*classes, *striped, *CHANGE_KEY]
