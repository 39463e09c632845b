"""What distillation changed, and images of it and of all models, as the template shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from ..pictures import Column, Result, Sample, draw_image, draw_sheet, evenly
from ..pictures.draw import IGNORED, Boxes, HeatMap, Overlay, Style
from ..pictures.samples import overlay
from .evidence import Evidence, most
from .numbers import first, grouped
from .outcomes import Change, match
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
    found: dict[str, Any] = dict(
        changes=[], change_missing=[], change_note='', helped=[], hurt=[], sample=[],
        sample_note='', picture_key=[],
    )  # fmt: skip
    alone = first(runs, ALONE)
    pupils = [r for r in runs if r.role == DISTILLED and r.name in evidence.results]
    if not evidence.results:
        why = evidence.missing[-1] if evidence.missing else 'No model was run (--no-predict).'
        found['change_missing'] = [f'Nothing was predicted. {why}']
        return found
    sample = evenly(len(evidence.samples), show)
    shown, pair = set(sample), None
    columns = _columns(runs, evidence)
    if alone and alone.name in evidence.results and pupils:
        pair = (alone, pupils[0])
        changes = [evidence.change(alone, pupil) for pupil in pupils]
        found['changes'] = [
            _change(alone, pupil, change, evidence)
            for pupil, change in zip(pupils, changes, strict=True)
        ]
        found['change_note'] = _change_note(evidence)
        for key, places in zip(('helped', 'hurt'), most(changes[0], show), strict=True):
            found[key] = [_row(evidence, i, columns, pair, changes[0]) for i in places]
            shown.update(places)
    else:
        found['change_missing'] = [
            'Needs a student alone and a distilled one, with their checkpoints.'
        ]
    found['sample'] = [_row(evidence, i, columns, pair) for i in sample]
    found['sample_note'] = (
        f'{len(sample)} validation images, spread evenly and not chosen by what they show.'
    )
    found['picture_key'] = _key(evidence, shown)
    return found


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


def _columns(runs: Sequence[Run], evidence: Evidence) -> list[Run]:
    """The models that pictures show: all, or where they are many the teachers and three more."""
    ran = [run for run in runs if run.name in evidence.results]
    if len(ran) <= 4:
        return ran
    alone = [run for run in ran if run.role == ALONE][:1]
    return [
        *(run for run in ran if run.role == TEACHER),
        *alone,
        *[run for run in ran if run.role == DISTILLED][:2],
    ]


def _row(
    evidence: Evidence,
    index: int,
    columns: Sequence[Run],
    pair: tuple[Run, Run] | None,
    change: Change | None = None,
) -> dict[str, Any]:
    """One image: what was annotated, and what each model sees."""
    sample = evidence.samples[index]
    shots = []
    for title, overlays in _overlays(evidence, index, columns, pair):
        drawn = draw_image(sample.pixels, overlays, evidence.classes)
        shots.append(dict(title=title, picture=_data_url(drawn)))
    note = ''
    if change:
        gained, lost = change.images[index]
        unit = 'pixels' if evidence.segments else 'objects'
        unit = unit.removesuffix('s') if gained == 1 else unit
        note = f'{grouped(gained)} {unit} gained, {grouped(lost)} lost'
    return dict(name=sample.name, note=note, shots=shots)


def _overlays(
    evidence: Evidence, index: int, columns: Sequence[Run], pair: tuple[Run, Run] | None
) -> Iterator[tuple[str, list[Overlay]]]:
    """Titles, and what to draw over an image."""
    sample = evidence.samples[index]
    results = {name: found[index] for name, found in evidence.results.items()}
    if not evidence.segments:
        truth = sample.truth.counted()
        yield 'annotated', [Boxes(truth.boxes, truth.labels, style=TRUTH)]
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
    drawn = [
        Boxes(found.boxes[those], found.labels[those], found.scores[those], style)
        for style, those in kinds.items()
    ]
    missed = ~outcome.found
    if sample.truth.ignored is not None:
        missed &= ~sample.truth.ignored
    return [*drawn, Boxes(sample.truth.boxes[missed], sample.truth.labels[missed], style=MISSED)]


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


def _change(alone: Run, pupil: Run, change: Change, evidence: Evidence) -> dict[str, Any]:
    """The counts of a change, in words and as parts of a bar."""
    unit = 'pixels' if evidence.segments else 'objects'
    total = max(change.total, 1)
    named = (
        ('both', change.both, f'{"right" if evidence.segments else "found"} by both'),
        ('gained', change.gained, 'gained'),
        ('lost', change.lost, 'lost'),
        ('neither', change.neither, f'{"wrong" if evidence.segments else "missed"} by both'),
    )
    if evidence.segments:
        text = f'Of {grouped(change.total)} pixels, distillation gained '
        text += f'{change.gained / total:.1%} and lost {change.lost / total:.1%}.'
    else:
        gained, lost = (
            f'{grouped(n)} {"is" if n == 1 else "are"}' for n in (change.gained, change.lost)
        )
        text = (
            f'Of {grouped(change.total)} objects, {gained} found only since distillation and '
            f'{lost} no longer found. Wrong detections: '
            f'{grouped(change.false_alone)} alone, {grouped(change.false_distilled)} distilled.'
        )
    return dict(
        alone=alone.name,
        distilled=pupil.name,
        text=text,
        parts=[
            dict(kind=kind, percent=100 * count / total, text=f'{words}: {grouped(count)} {unit}')
            for kind, count, words in named
        ],
    )


def _change_note(evidence: Evidence) -> str:
    number, total = len(evidence.samples), evidence.total
    images = f'On {"all " if number == total else f"{number} of "}{total} validation images. '
    if evidence.segments:
        return images + 'A pixel is right where the surest class is the annotated one.'
    return images + (
        'An object is found where a detection of its class with a score above '
        f'{evidence.threshold:g} overlaps it by an IoU of 0.5 or more; all '
        'other detections are wrong.'
    )
