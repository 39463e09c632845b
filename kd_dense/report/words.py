"""What the page says in sentences: its head, and what a reader should not take from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .evidence import Evidence
from .numbers import TIMES, alone_in_words, best_teacher, compare, first, known_metrics
from .runs import ALONE, DISTILLED, TEACHER, Run


def head(runs: Sequence[Run], evidence: Evidence) -> dict[str, Any]:
    """Title, the sentence below it, and the large numbers."""
    distilled = first(runs, DISTILLED)
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
    teacher, whose = best_teacher(runs, metrics[0]), 'the teacher'
    if sum(run.role == TEACHER for run in runs) > 1:
        whose = f'{teacher.name}, the best teacher,'
    before = 'the same student alone'
    if sum(run.role == ALONE for run in runs) > 1:
        before = 'the mean of the students alone'
    who = 'The distilled student'
    if len(found) > 1:
        title = f'What {len(found)} distilled students learned'
        who = f'{best.run.name}, the best of {len(found)} distilled students,'
    lead = f'{who} reaches {best.after:.1f} {name}, {before} {best.before:.1f}'
    lead += f', {whose} {best.top:.1f}.' if best.top is not None else '.'
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
            share = f'{own.parameters / theirs.parameters:.0%}'
            text += f', {share} of the teacher\N{RIGHT SINGLE QUOTATION MARK}s'
        cards.append(dict(value=f'{own.parameters / 1e6:.2f} M', text=text, tone=''))
    if own and theirs and own.milliseconds and theirs.milliseconds:
        text = f'as fast as the teacher on this machine ({own.milliseconds:.0f} against '
        text += f'{theirs.milliseconds:.0f} ms an image)'
        value = f'{theirs.milliseconds / own.milliseconds:.1f}{TIMES}'
        cards.append(dict(value=value, text=text, tone=''))
    return dict(title=title, lead=lead, cards=cards)


def signed(value: float, style: str = '+.1f') -> str:
    """A number with its sign, a true minus."""
    return format(value, style).replace('-', '\N{MINUS SIGN}')


def limits(runs: Sequence[Run], evidence: Evidence) -> list[str]:
    """What a reader should not take from the page."""
    roles = [run.role for run in runs]
    told = []
    if roles.count(ALONE) <= 1 and roles.count(DISTILLED):
        told.append(
            'How much of the gain is chance: there is one training of the student alone. Trainings '
            'with other seeds differ; give several runs, or compare means of several.'
        )
    elif roles.count(ALONE) > 1 and evidence.samples:
        name = first(runs, ALONE).name
        told.append(
            f'Class by class, what changed and the pictures compare with {name}, the first of the '
            f'{roles.count(ALONE)} students alone; only the table of numbers takes their mean.'
        )
    if roles.count(DISTILLED) > 1:
        told.append(
            'A best run chosen among several looks better than it is: its luck was chosen too.'
        )
    if not evidence.samples:
        told.append('What the models see: nothing was predicted.')
    elif len(evidence.samples) < evidence.total:
        told.append(
            'Class by class, what changed and the pictures stand on '
            f'{len(evidence.samples)} of {evidence.total} validation images, '
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
