"""The page: everything that was read and measured, put into words and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from ..version import __version__
from . import parts
from .evidence import Evidence
from .numbers import alone_in_words, compare, first, known_metrics, table
from .runs import ALONE, DISTILLED, OTHER, TEACHER, Run
from .signs import APOSTROPHE, TIMES, signed

HERE = Path(__file__).parent
ROLE_TEXT = {
    TEACHER: 'teacher',
    ALONE: 'student alone',
    DISTILLED: 'student, distilled',
    OTHER: 'unrelated',
}
COLOURS = {
    TEACHER: ('#5b6472', '#98a1ad', '#3a4250'),
    ALONE: ('#d0801f', '#e3ad6a', '#a55f0c'),
    DISTILLED: ('#00796b', '#3f5bd8', '#9c36b5', '#5c940d', '#c2255c'),
    OTHER: ('#868e96', '#adb5bd', '#495057'),
}


def render(
    runs: Sequence[Run], evidence: Evidence, command: str, versions: str, show: int = 4
) -> str:
    """The page as HTML.

    Args:
        runs: the trainings, teachers first.
        evidence: what running the models showed.
        command: that this report was asked for with.
        versions: of what it was made with.
        show: how many images to show of each kind.
    """
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    labelled = _labelled(runs)
    context = dict(
        segments=evidence.segments,
        runs=labelled,
        css=(HERE / 'page.css').read_text(),
        version=__version__,
        command=command,
        versions=versions,
        **_numbers(runs, labelled),
        **parts.costs(runs, labelled, evidence),
        **parts.per_class(runs, labelled, evidence),
        **parts.pictures(runs, evidence, show),
        **parts.training(runs, labelled),
        **parts.balance(runs, labelled),
        made=parts.made(runs, labelled),
        limits=_limits(runs, evidence),
    )
    context |= _head(runs, evidence)
    context['contents'] = [
        ('numbers', 'Numbers'),
        ('cost', 'Size and speed'),
        ('change', 'What changed'),
        *([('classes', 'Class by class')] if context['per_class'] else []),
        *([('pictures', 'Pictures')] if context['sample'] else []),
        ('curves', 'Training'),
        ('balance', 'Losses'),
        ('made', 'How it was made'),
        ('limits', 'Limits'),
    ]
    return environment.get_template('page.html').render(context)


def _labelled(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What the page shows of a run wherever it is named."""
    counts = dict.fromkeys(COLOURS, 0)
    found = []
    for index, run in enumerate(runs):
        colours = COLOURS[run.role]
        colour = colours[counts[run.role] % len(colours)]
        counts[run.role] += 1
        found.append(
            dict(
                index=index,
                name=run.name,
                role_text=ROLE_TEXT[run.role],
                colour=colour,
                validated_at=run.validated_at,
            )
        )
    return found


def _numbers(runs: Sequence[Run], labelled: Sequence[dict]) -> dict[str, Any]:
    metrics = known_metrics(runs)
    rows = table(runs, metrics)
    for row, label in zip(rows, labelled, strict=True):
        row['run'] = label
    missing = [f'{run.name} logged no validation.' for run in runs if not run.metrics]
    for role, what in ((TEACHER, 'teacher'), (ALONE, 'student alone'), (DISTILLED, 'distilled')):
        if not first(runs, role):
            missing.append(
                f'No {what} run was given or recognised, so what depends on it is left out; '
                '--roles names the roles.'
            )
    closed = {
        c.run.name: f'{c.closed:.0%}'
        for c in (compare(runs, metrics[0]) if metrics else ())
        if c.closed is not None
    }
    return dict(
        metrics=metrics,
        table=rows,
        closed=closed,
        alone=alone_in_words(runs) if first(runs, DISTILLED) else '',
        dashes=any(cell['value'] is None for row in rows for cell in row['cells']),
        numbers_missing=missing,
    )


def _head(runs: Sequence[Run], evidence: Evidence) -> dict[str, Any]:
    """Title, the sentence below it, and the large numbers."""
    teacher, distilled = first(runs, TEACHER), first(runs, DISTILLED)
    metrics = known_metrics(runs)
    found = compare(runs, metrics[0]) if metrics else []
    title = 'Training report' if not distilled else f'What {distilled.name} learned'
    if not found:
        return dict(
            title=title,
            lead='A student alone and a distilled one, both validated, are needed to say what '
            'distillation brought. What there is follows.',
            cards=[],
        )
    best, name = max(found, key=lambda c: c.gain), metrics[0].title
    before = 'the same student alone'
    if sum(run.role == ALONE for run in runs) > 1:
        before = 'the mean of the students alone'
    who = 'The distilled student'
    if len(found) > 1:
        title = f'What {len(found)} distilled students learned'
        who = f'{best.run.name}, the best of {len(found)} distilled students,'
    lead = f'{who} reaches {best.after:.1f} {name}, {before} {best.before:.1f}'
    lead += f', the teacher {best.top:.1f}.' if best.top is not None else '.'
    lead += '' if best.gain > 0 else ' Distillation did not help here.'
    over = f'{name} by distillation (over {alone_in_words(runs)})'
    cards = [
        dict(value=signed(best.gain), text=over, tone='good' if best.gain > 0 else 'bad'),
    ]
    if best.closed is not None:
        share = signed(best.closed, '.0%')
        cards.append(dict(value=share, text='of the gap to the teacher closed', tone=''))
    own = evidence.costs.get(best.run.name)
    theirs = evidence.costs.get(teacher.name) if teacher else None
    if own:
        text = 'parameters'
        if theirs:
            text += f', {own.parameters / theirs.parameters:.0%} of the teacher{APOSTROPHE}s'
        cards.append(dict(value=f'{own.parameters / 1e6:.2f} M', text=text, tone=''))
    if own and theirs and own.milliseconds and theirs.milliseconds:
        text = f'as fast as the teacher on this machine ({own.milliseconds:.0f} against '
        text += f'{theirs.milliseconds:.0f} ms an image)'
        value = f'{theirs.milliseconds / own.milliseconds:.1f}{TIMES}'
        cards.append(dict(value=value, text=text, tone=''))
    return dict(title=title, lead=lead, cards=cards)


def _limits(runs: Sequence[Run], evidence: Evidence) -> list[str]:
    """What a reader should not take from the page."""
    roles = [run.role for run in runs]
    told = []
    if roles.count(ALONE) <= 1 and roles.count(DISTILLED):
        told.append(
            'How much of the gain is chance: there is one training of the student alone. Trainings '
            'with other seeds differ; give several runs, or compare means of several.'
        )
    elif roles.count(ALONE) > 1 and evidence.pictures:
        name = first(runs, ALONE).name
        told.append(
            f'Class by class, what changed and the pictures compare with {name}, the first of the '
            f'{roles.count(ALONE)} students alone; only the table of numbers takes their mean.'
        )
    if roles.count(DISTILLED) > 1:
        told.append(
            'A best run chosen among several looks better than it is: its luck was chosen too.'
        )
    if not evidence.pictures:
        told.append('What the models see: nothing was predicted.')
    elif len(evidence.pictures.chosen) < evidence.pictures.total:
        told.append(
            'Class by class, what changed and the pictures stand on '
            f'{len(evidence.pictures.chosen)} of {evidence.pictures.total} validation images, '
            'spread evenly; --images takes more.'
        )
    if any(cost.milliseconds for cost in evidence.costs.values()):
        told.append(
            'How fast the models are elsewhere: times are of this machine, by torch, one image '
            'at a time, and other programs may have run beside.'
        )
    lengths = {
        max(run.validations) for run in runs if run.role in (ALONE, DISTILLED) and run.metrics
    }
    if len(lengths) > 1:
        told.append(
            'A fair comparison: the students were validated after different lengths of training '
            f'({", ".join(str(length) for length in sorted(lengths))}).'
        )
    return told + evidence.missing
