"""What distillation changed, and images of it and of all models, as the template shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import figures
from .evidence import Evidence, evenly, most
from .numbers import first
from .outcomes import Change
from .predict import IGNORED
from .runs import ALONE, DISTILLED, TEACHER, Run
from .signs import grouped

MOST_CLASSES = 30  # in the key of the pictures


def pictures(runs: Sequence[Run], evidence: Evidence, show: int) -> dict[str, Any]:
    """What distillation changed, and images of it and of all models."""
    found = dict(
        changes=[], change_missing=[], change_note='', helped=[], hurt=[], sample=[],
        sample_note='', definitions=[], picture_legend='',
    )  # fmt: skip
    alone = first(runs, ALONE)
    pupils = [r for r in runs if r.role == DISTILLED and r.name in evidence.results]
    if not evidence.results:
        why = evidence.missing[-1] if evidence.missing else 'No model was run (--no-predict).'
        found['change_missing'] = [f'Nothing was predicted. {why}']
        return found
    shown = evenly(len(evidence.pictures.chosen), show)
    columns = _columns(runs, evidence)
    if alone and alone.name in evidence.results and pupils:
        changes = [evidence.change(alone, pupil) for pupil in pupils]
        found['changes'] = [
            _change(alone, pupil, change, evidence)
            for pupil, change in zip(pupils, changes, strict=True)
        ]
        found['change_note'] = _change_note(evidence)
        for key, places in zip(('helped', 'hurt'), most(changes[0], show), strict=True):
            found[key] = [
                _row(evidence, i, columns, (alone, pupils[0]), changes[0]) for i in places
            ]
            shown += places
    else:
        found['change_missing'] = [
            'Needs a student alone and a distilled one, with their checkpoints.'
        ]
    pair = (alone, pupils[0]) if found['changes'] else None
    found['sample'] = [
        _row(evidence, i, columns, pair) for i in evenly(len(evidence.pictures.chosen), show)
    ]
    found['sample_note'] = (
        f'{len(found["sample"])} validation images, spread evenly and not chosen by what they show.'
    )
    found['definitions'] = [
        figures.definition(f'image-{i}', evidence.pictures.chosen[i].pixels)
        for i in sorted(set(shown))
    ]
    found['picture_legend'] = _legend(evidence, sorted(set(shown)))
    return found


def _columns(runs: Sequence[Run], evidence: Evidence) -> list[Run]:
    """The models that pictures show: all, or the first of each role where they are many."""
    ran = [run for run in runs if run.name in evidence.results]
    if len(ran) <= 4:
        return ran
    chosen = [first(ran, role) for role in (TEACHER, ALONE)]
    return [r for r in chosen if r] + [r for r in ran if r.role == DISTILLED][:2]


def _row(
    evidence: Evidence,
    index: int,
    columns: Sequence[Run],
    pair: tuple[Run, Run] | None,
    change: Change | None = None,
) -> dict[str, Any]:
    """One image: what was annotated, and what each model sees."""
    picture = evidence.pictures.chosen[index]
    name, size, classes = f'image-{index}', picture.pixels.shape[:2], evidence.classes
    results = evidence.results
    if evidence.segments:
        shots = [('annotated', figures.masks(name, picture.truth, classes, IGNORED))]
        shots += [(r.name, figures.masks(name, results[r.name][index], classes)) for r in columns]
        if pair:
            both = (results[run.name][index] for run in pair)
            shots.append(('gained and lost', figures.changes(name, picture.truth, *both, IGNORED)))
    else:
        shots = [
            (title, figures.boxes(name, size, picture.truth, found, classes, evidence.threshold))
            for title, found in (
                ('annotated', None),
                *((r.name, results[r.name][index]) for r in columns),
            )
        ]
    note = ''
    if change:
        gained, lost = change.images[index]
        unit = 'pixels' if evidence.segments else 'objects'
        unit = unit.removesuffix('s') if gained == 1 else unit
        note = f'{grouped(gained)} {unit} gained, {grouped(lost)} lost'
    return dict(name=picture.name, note=note, shots=[dict(title=t, picture=p) for t, p in shots])


def _legend(evidence: Evidence, shown: Sequence[int]) -> str:
    """What the colours of the pictures mean."""
    if not evidence.segments:
        kinds = (
            ('line', '#12c9a7', 'right: the class, and IoU of 0.5 or more'),
            ('dashes', '#ff5a52', 'wrong'),
            ('dots', '#e3b600', 'missed'),
        )
        spans = [
            f'<span style="--c:{colour}"><i class="{kind}"></i>{text}</span>'
            for kind, colour, text in kinds
        ]
        spans.append(f'<span>detections with a score above {evidence.threshold:g}</span>')
        return f'<div class="legend">{"".join(spans)}</div>'
    used = set()
    for index in shown:
        for labels in (evidence.truths[index], *(r[index] for r in evidence.results.values())):
            used |= set(np.unique(labels[labels != IGNORED]).tolist())
    spans = [
        f'<span style="--c:{colour}"><i></i>{figures.escape(name)}</span>'
        for name, colour in figures.swatches(evidence.classes, sorted(used)[:MOST_CLASSES])
    ]
    spans += ['<span><i class="gained"></i>gained</span>', '<span><i class="lost"></i>lost</span>']
    return f'<div class="legend">{"".join(spans)}</div>'


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
    number, total = len(evidence.pictures.chosen), evidence.pictures.total
    images = f'On {"all " if number == total else f"{number} of "}{total} validation images. '
    if evidence.segments:
        return images + 'A pixel is right where the surest class is the annotated one.'
    return images + (
        'An object is found where a detection of its class with a score above '
        f'{evidence.threshold:g} overlaps it by an IoU of 0.5 or more; all '
        'other detections are wrong.'
    )
