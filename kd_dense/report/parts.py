"""The sections of the page, each as the values that its part of the template shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import figures
from .charts import Line, chart
from .evidence import Evidence, evenly, most
from .history import command, minutes, versions
from .numbers import first, known_metrics
from .outcomes import Change
from .predict import IGNORED
from .runs import ALONE, DISTILLED, TEACHER, Run
from .signs import DASH, TIMES, grouped
from .speed import machine

PREFIX = 'loss_kd_'
MOST_CLASSES = 30  # in the key of the pictures


def costs(runs: Sequence[Run], labelled: Sequence[dict], evidence: Evidence) -> dict[str, Any]:
    """Size and speed."""
    rows = []
    for run, label in zip(runs, labelled, strict=True):
        if cost := evidence.costs.get(run.name):
            rows.append(
                dict(
                    run=label,
                    what=label['role_text'],
                    millions=cost.parameters / 1e6,
                    megabytes=cost.parameters * 4 / 1e6,
                    flops=None if cost.flops is None else _flops(cost.flops),
                    milliseconds=cost.milliseconds,
                    spread=cost.spread,
                )
            )
    note = ''
    if rows:
        shape = next(iter(evidence.costs.values())).shape
        note = (
            'Of what is shipped: a distilled student is the plain student. Multiply-adds of one '
            f'image of {shape[0]}{TIMES}{shape[1]} pixels, of convolutions and matrix products, '
            'counted by mmengine.'
        )
    timed = any(row['milliseconds'] for row in rows)
    if timed:
        note += f' Times: median of 15, from image to result, the models in turn; {machine()}.'
    missing = [] if timed else ['No times: no model was run.']
    return dict(costs=rows, cost_note=note, cost_missing=missing)


def _flops(flops: int) -> str:
    return f'{flops / 1e9:.3g} G' if flops >= 1e8 else f'{flops / 1e6:.3g} M'


def per_class(runs: Sequence[Run], labelled: Sequence[dict], evidence: Evidence) -> dict[str, Any]:
    """AP or intersection over union of each class, of the runs that were run."""
    ran = [(r, la) for r, la in zip(runs, labelled, strict=True) if r.name in evidence.results]
    if not ran:
        return dict(per_class=None)
    values = [evidence.per_class(run) for run, _ in ran]
    base = next((v for v, (r, _) in zip(values, ran, strict=True) if r.role == ALONE), None)
    counts = _counts(evidence)
    rows = []
    for index, name in enumerate(evidence.pictures.classes):
        cells = []
        for each, (run, _) in zip(values, ran, strict=True):
            gain = None
            if run.role == DISTILLED and base and None not in (each[index], base[index]):
                gain = each[index] - base[index]
            cells.append(dict(value=each[index], gain=gain))
        rows.append(dict(name=name, count=grouped(counts[index]), cells=cells))
    number, total = len(evidence.pictures.chosen), evidence.pictures.total
    images = f'all {total} validation images'
    if number < total:
        images = f'{number} of the {total} validation images, spread evenly'
    what = 'Intersection over union' if evidence.segments else 'COCO AP'
    note = f'{what} of each class, in points, measured here on {images}'
    note += '' if number == total else ', so unlike the numbers of the whole set above'
    return dict(per_class=dict(rows=rows, runs=[label for _, label in ran], note=note + '.'))


def _counts(evidence: Evidence) -> list[int]:
    """Annotated objects or pixels of each class."""
    number = len(evidence.pictures.classes)
    if evidence.segments:
        labels = [truth[truth != IGNORED] for truth in evidence.truths]
    else:
        labels = [t.labels if t.ignored is None else t.labels[~t.ignored] for t in evidence.truths]
    return np.bincount(np.concatenate(labels).astype(int), minlength=number)[:number].tolist()


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
            ('line', '#ff5a52', 'wrong'),
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
        text = (
            f'Of {grouped(change.total)} objects, {grouped(change.gained)} are found only since '
            f'distillation and {grouped(change.lost)} are no longer found. Wrong detections: '
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


def training(runs: Sequence[Run], labelled: Sequence[dict]) -> dict[str, Any]:
    """The curves of metrics and losses."""
    from ..logs import curve, is_training

    def drawn(key: str, title: str, note: str = '', scale: float = 1, zero: bool = False) -> dict:
        lines = []
        for run, label in zip(runs, labelled, strict=True):
            steps, values = curve(run.lines, key)
            if steps:
                scaled = [value * scale for value in values]
                lines.append(Line(run.name, f'run-{label["index"]}', steps, scaled))
        return dict(title=title, note=note, svg=chart(title, lines, zero))

    groups = []
    metrics = [drawn(m.key, m.title, m.meaning, m.scale) for m in known_metrics(runs)[:3]]
    if metrics:
        groups.append(dict(title='Validation, over training steps', charts=metrics))
    keys = {k for run in runs for line in run.lines if is_training(line) for k in line}
    losses = sorted(key for key in keys if 'loss' in key.split('.')[-1])
    own = sorted((k for k in losses if not k.startswith(PREFIX)), key=lambda k: (k != 'loss', k))
    kd = [k for k in losses if k.startswith(PREFIX)]
    for title, chosen in (('Losses of the models themselves', own), ('Distillation losses', kd)):
        if chosen:
            named = [
                drawn(
                    k,
                    k.removeprefix(PREFIX),
                    'all that is trained on' if k == 'loss' else '',
                    zero=True,
                )
                for k in chosen
            ]
            groups.append(dict(title=title, charts=named))
    missing = [
        f'{run.name} has no log (*/vis_data/scalars.json), so it has no curves.'
        for run in runs
        if not run.lines
    ]
    return dict(charts=groups, curves_missing=missing)


def balance(runs: Sequence[Run], labelled: Sequence[dict]) -> dict[str, Any]:
    """How much each loss moved the student in the first steps."""
    found, missing = [], []
    for run, label in zip(runs, labelled, strict=True):
        if run.role != DISTILLED:
            continue
        if run.balance is None:
            missing.append(
                f'{run.name} has no loss_balance.json: it was trained without LossBalanceHook.'
            )
            continue
        named = {"the student's own": run.balance['student'], **run.balance['losses']}
        found.append(
            dict(
                run=label,
                steps=run.balance['steps'],
                warnings=run.balance['warnings'],
                rows=[_balance_row(name, row) for name, row in named.items()],
            )
        )
    if not found and not missing:
        missing = ['No distilled run was given.']
    return dict(balances=found, balance_missing=missing)


def _balance_row(name: str, row: dict) -> dict[str, Any]:
    def shown(value: float | str | None) -> str:
        return (
            f'{value:.4g}' if isinstance(value, int | float) else DASH if value is None else value
        )

    share = row['share'] if isinstance(row['share'], int | float) else 0.0
    off = row['value'] is None
    return dict(
        name=name,
        weight=shown(row['weight']),
        value='off' if off else shown(row['value']),
        norm=shown(row['gradient_norm']),
        percent=100 * share,
        share='' if off else f'{share:.0%}',
    )


def made(runs: Sequence[Run], labelled: Sequence[dict]) -> list[dict[str, Any]]:
    """Commands, times and versions."""
    rows = []
    for run, label in zip(runs, labelled, strict=True):
        text, note = command(run)
        facts = [f'Command {note}.']
        if spent := minutes(run):
            facts.append(f'Took {spent:.1f} minutes.')
        if used := versions(run):
            facts.append(', '.join(f'{name} {value}' for name, value in used.items()) + '.')
        why = f'{label["role_text"].capitalize()}: {run.why}.'
        rows.append(dict(run=label, why=why, command=text, note=' '.join(facts)))
    return rows
