"""What came out of the trainings of a chain: a row of each, and a table over seeds."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from ..hosts.checkpoints import model_state, read_checkpoint
from ..hosts.configs import is_distiller
from ..logs import metrics_of, read_scalars, validations
from ..record import minutes, read_record, versions
from ..report.numbers import METRICS, Metric
from ..text_table import text_table
from .notes import row_of
from .plan import Chain
from .stage_config import length

if TYPE_CHECKING:
    from .job import Job

# two-sided 95 % of Student's t by degrees of freedom: what few seeds leave open
T95 = (math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
NORMAL95 = 1.96
# of the chain file
TOLD = ('config', 'student', 'recipe', 'teacher', 'options', 'evaluates', 'class_bias',
        'unlabelled')  # fmt: skip
STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked', 'integral.project')
TOGETHER = '\N{NO-BREAK SPACE}\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}'
Row = Mapping[str, Any]


class Sample(NamedTuple):
    """Numbers of several seeds.

    Attributes:
        mean: of all.
        error: standard error of the mean; None of a single one.
        number: of values.
    """

    mean: float
    error: float | None
    number: int

    @property
    def interval(self) -> float | None:
        """Half the width of the 95 % interval of the mean, by Student's t."""
        if self.error is None:
            return None
        return self.error * (T95[self.number - 1] if self.number <= len(T95) else NORMAL95)

    def text(self, signed: bool = False) -> str:
        """As ``20.3 ± 0.4``, with the standard error."""
        error = '' if self.error is None else f' \N{PLUS-MINUS SIGN} {self.error:.1f}'
        return f'{self.mean:{"+" if signed else ""}.1f}{error}'


def sample(values: Sequence[float]) -> Sample:
    """The sample of some numbers, at least one."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Sample(fmean(values), error, len(values))


def make_row(chain: Chain, job: Job) -> dict[str, Any] | None:
    """What came out of a job that has ended; None where it left nothing."""
    own = job.checkpoint()
    files = [job.filled(each) for each in job.evaluates] or [str(own)] * (own is not None)
    told = _told(job)
    found = validations(read_scalars(job.folder))
    if job.evaluates:
        tested = _tested(job.folder)
        if tested and job.class_bias:
            tested['shift'] = _shift(str(own), job.class_bias[0])
        found = {told['steps']: tested} if tested else {}
    if not files or (job.evaluates and not found):
        return None
    record = read_record(job.folder)
    command = ['python', 'tools/chain.py', str(chain.file), '--only', job.stage.name]
    command += ['--seeds', str(job.run_seed)] if job.run_seed is not None else []
    return dict(
        stage=job.stage.name,
        run_seed=job.run_seed,
        **told,
        role='distilled' if is_distiller(job.config) else 'alone',
        command=shlex.join(command),
        date=datetime.now(UTC).date().isoformat(),
        versions=record['versions'] if record else versions(),
        minutes=round(minutes(record, job.folder) or 0.0, 2) if record else None,
        parameters=sum(parameters(model_state(read_checkpoint(file, 'student'))) for file in files),
        validations={str(k): v for k, v in found.items()},
    )


def _told(job: Job) -> dict[str, Any]:
    """What the chain file asks for, of what a row tells."""
    steps, unit = length(job.config)
    seed = (job.config.get('randomness') or {}).get('seed')
    about = {key: job.stage.about[key] for key in TOLD if key in job.stage.about}
    return dict(**about, seed=seed, steps=steps, unit=unit)


def _tested(folder: Path) -> dict[str, float]:
    """The metrics of the last test in a folder, as mmengine's logger writes them."""
    files = sorted(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime_ns)
    return metrics_of(json.loads(files[-1].read_text(encoding='utf-8'))) if files else {}


def _shift(checkpoint: str, name: str) -> float:
    """By how much the bias of a class was shifted in a checkpoint."""
    return read_checkpoint(checkpoint, 'student')['meta']['made_by']['class_bias'][name]


def parameters(state: Mapping[str, Any]) -> int:
    """How many weights a plain model has, statistics left out."""
    return sum(v.numel() for key, v in state.items() if not key.endswith(STATISTICS))


def main_metric(rows: Sequence[Row], chain: Chain) -> Metric | None:
    """The metric that counts: the first of the chain's table."""
    return next(iter(metrics(rows, chain)), None)


def metrics(rows: Sequence[Row], chain: Chain) -> list[Metric]:
    """The columns of a table: those that the file names, else the usual ones that were measured."""
    measured = {key for row in rows for each in row['validations'].values() for key in each}
    named = chain.settings.get('metrics')
    if named:
        scales = {metric.key: metric.scale for metric in METRICS}
        return [
            Metric(key, title, '', scales.get(key, 100 if key.startswith('coco/') else 1))
            for title, key in named.items()
        ]
    return [metric for metric in METRICS if metric.key in measured][:3]


def points(row: Row, metric: Metric, share: float = 1.0) -> float | None:
    """A metric of a row, in points.

    Args:
        row: of a training.
        metric: that counts.
        share: of the schedule: 1 for its end, 1/3 for the first validation at or behind a third.

    Returns:
        None where it was not measured.
    """
    steps = sorted(int(step) for step in row['validations'])
    behind = [step for step in steps if step >= share * row['steps']] or steps[-1:]
    value = row['validations'][str(behind[0])].get(metric.key) if behind else None
    return None if value is None or value == -1 else value * metric.scale  # -1: of COCO, no object


def settled(rows: Sequence[Row], metric: Metric, within: float = 0.5) -> bool | None:
    """Whether the mean of some seeds changed by less than ``within`` over the last quarter.

    Returns:
        None where there are fewer than eight validations, or values are missing.
    """
    if any(len(row['validations']) < 8 for row in rows):
        return None
    pairs = [(points(row, metric, 0.75), points(row, metric)) for row in rows]
    if any(None in pair for pair in pairs):
        return None
    return abs(fmean(end - before for before, end in pairs)) < within  # type: ignore[operator]


def finished(jobs: Sequence[Job], kept: bool = False) -> dict[str, list[Row]]:
    """The rows of the jobs that are done, by stage.

    Args:
        jobs: of a chain.
        kept: whether to take kept rows as they are; :func:`doubts` tells of those that do not fit.
    """
    rows: dict[str, list[Row]] = {}
    for job in jobs:
        row = row_of(job.row_file).get('row') if kept else job.row
        if row is not None:
            rows.setdefault(job.stage.name, []).append(row)
    return rows


def doubts(jobs: Sequence[Job], with_data: bool = True) -> list[str]:
    """In sentences, which kept rows are not of what the chain file asks for today.

    Args:
        jobs: of a chain.
        with_data: whether data and checkpoints from outside are looked at too; without, the same
            is told on every machine.
    """
    other: list[str] = []
    unknown: list[str] = []
    for job in jobs:
        kept = row_of(job.row_file)
        if 'row' not in kept:
            continue
        if _settings(kept['row']) != _settings(_told(job)):
            other.append(job.name)
        elif with_data and kept.get('fingerprint') != job.fingerprint:
            (other if job.is_whole else unknown).append(job.name)
    told = []
    if other:
        told.append(
            f'Kept rows of other settings, data or teachers than the chain file names now: '
            f'{"; ".join(other)}. The chain trains them again.'
        )
    if unknown:
        told.append(
            'Kept rows of which nobody can tell without their data and checkpoints whether the '
            f'chain file still names them: {"; ".join(unknown)}.'
        )
    return told


def _settings(row: Row) -> dict[str, Any]:
    """What a row says that the chain file asked for, as JSON keeps it."""
    asked = {key: row.get(key) for key in (*TOLD, 'seed', 'steps', 'unit')}
    return json.loads(json.dumps(asked))


def summary(chain: Chain, rows: Mapping[str, Sequence[Row]], markdown: bool = False) -> list[str]:
    """The table of a chain, in lines, and what distillation closed of the gap.

    Each stage has a line: its metrics at the end, the main one after a third of the schedule too,
    its gain over the controls that have the same number of weights, seed by seed, its weights and
    its minutes; means, and standard errors where there are several seeds. In Markdown it is the
    main metric alone, or those that the chain names: pages are narrow.

    Args:
        chain: that the rows are of.
        rows: of :func:`finished`.
        markdown: whether the table is written in Markdown.
    """
    if not rows:
        return ['Nothing is done yet.']
    columns = metrics([row for each in rows.values() for row in each], chain)
    main = columns[0] if columns else None
    if markdown and not chain.settings.get('metrics'):
        columns = columns[:1]
    gains, told = _gains(chain, rows, main) if main else ({}, [])
    controls = [name for name in chain.stages if name in gains]
    lines = []
    for name, found in rows.items():
        cells = [_text(found, metric) for metric in columns]
        if main:
            cells.insert(1, _text(found, main, 1 / 3))
        for control in controls:
            gain = gains[control].get(name)
            cells.append(gain.text(signed=True) if gain else '')
        spent = [row['minutes'] for row in found if row['minutes']]
        size = f'{found[0]["parameters"] / 1e6:.2f} M'
        seeds = str(len(found))
        lines.append((chain.stages[name].title, *cells, size, seeds, f'{fmean(spent or [0]):.1f}'))
    heads = [metric.title for metric in columns]
    if main:
        heads.insert(1, f'{main.title} at 1/3')
    over = (f'over {chain.stages[each].title}' for each in controls)
    header = ('stage', *heads, *over, 'parameters', 'seeds', 'minutes')
    if markdown:
        told = as_list(told)
        rule = ['---', *['--:'] * (len(header) - 1)]
        table = [f'| {" | ".join(line)} |' for line in (header, rule, *lines)]
        return [*(line.replace(' \N{PLUS-MINUS SIGN} ', TOGETHER) for line in table), '', *told]
    return [*text_table(lines, header, right=True), '', *told]


def as_list(sentences: Sequence[str]) -> list[str]:
    """The lines of a list in Markdown."""
    return [
        line
        for text in sentences
        for line in wrap(f'- {text}', 120, subsequent_indent='  ', break_on_hyphens=False)
    ]


def _gains(
    chain: Chain, rows: Mapping[str, Sequence[Row]], main: Metric
) -> tuple[dict[str, dict[str, Sample]], list[str]]:
    """The gains of stages over each control that any is compared with, and sentences on them."""
    gains: dict[str, dict[str, Sample]] = {}
    told: list[str] = []
    controls = [name for name in rows if chain.stages[name].control]
    for name in rows:
        parts = []
        for control in () if chain.stages[name].control else controls:
            if gain := _gain(rows[name], rows[control], main):
                gains.setdefault(control, {})[name] = gain
                parts.append(_in_words(chain, rows, name, control, gain, main))
        if parts:
            told.append(f'{chain.stages[name].title}: {"; ".join(parts)}.')
    return gains, told


def _text(rows: Sequence[Row], metric: Metric, share: float = 1.0) -> str:
    values = [points(row, metric, share) for row in rows]
    known = [value for value in values if value is not None]
    return sample(known).text() if known else ''


def _gain(rows: Sequence[Row], control: Sequence[Row], metric: Metric) -> Sample | None:
    """What a stage has over a control, seed by seed; None where it is no comparison."""
    if rows[0]['parameters'] != control[0]['parameters']:
        return None
    base = {row['run_seed']: points(row, metric) for row in control}
    once = base.get(None)  # trained once for all seeds
    pairs = [(points(row, metric), base.get(row['run_seed'], once)) for row in rows]
    known = [after - before for after, before in pairs if None not in (after, before)]  # type: ignore[operator]
    return sample(known) if known else None


def _in_words(
    chain: Chain,
    rows: Mapping[str, Sequence[Row]],
    name: str,
    control: str,
    gain: Sample,
    metric: Metric,
) -> str:
    """A gain with its interval, and the share that it is of the gap to the teacher."""
    interval = f', 95 % within {gain.interval:.1f}' if gain.interval is not None else ''
    said = f'{gain.mean:+.1f} over {chain.stages[control].title}{interval}'
    teachers = [need for need in chain.stages[name].needs if need in rows]
    teacher = chain.stages[name].about.get('teacher')
    named = [need for need in teachers if str(teacher).strip('{}').split('.')[0] == need]
    if not (named or teachers):
        return said
    above = (named or teachers)[0]
    seeds = {None, *(row['run_seed'] for row in rows[name])}  # None: trained once for all
    top, base = (
        [points(row, metric) for row in rows[each] if row['run_seed'] in seeds]
        for each in (above, control)
    )
    if None in top or None in base or not (top and base):
        return said
    gap = fmean(top) - fmean(base)  # type: ignore[arg-type]
    if gap <= 0:
        return f'{said} (its teacher is not above that)'
    if gain.mean <= 0:
        return said
    return f'{said}, {gain.mean / gap:.0%} of the gap to {chain.stages[above].title}'
