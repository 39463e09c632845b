"""How the trainings went: curves, and the balance of the losses, as the template shows them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from ..logs import curve, is_training
from ..pictures.curves import Curve, Panel, as_svg, draw_curves
from .colours import colours
from .numbers import known_metrics
from .runs import DISTILLED, Run
from .signs import DASH

PREFIX = 'loss_kd_'


def training(runs: Sequence[Run]) -> dict[str, Any]:
    """The curves of metrics and losses."""
    numbers = count()

    def drawn(key: str, title: str, note: str = '', scale: float = 1, zero: bool = False) -> dict:
        lines = []
        for run, colour in zip(runs, colours(runs), strict=True):
            steps, values = curve(run.lines, key)
            lines.append(Curve(run.name, colour, steps, [value * scale for value in values]))
        figure = draw_curves([Panel('', lines, zero)], size=(4.2, 2.6), legend=False)
        return dict(title=title, note=note, svg=as_svg(figure, f'chart-{next(numbers)}'))

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
