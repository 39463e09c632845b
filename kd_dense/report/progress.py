"""How the trainings went, as curves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from ..logs import VALIDATION_LOSS, curve, is_training
from ..pictures.curves import Chart, Curve, as_svg, draw_curves
from .numbers import known_metrics
from .runs import Run

PREFIX = 'loss_kd_'


def training(runs: Sequence[Run]) -> dict[str, Any]:
    """The curves of metrics and losses."""
    numbers = count()

    def drawn(key: str, title: str, note: str = '', scale: float = 1, zero: bool = False) -> dict:
        panel = _panel(runs, key, '', scale, zero)
        figure = draw_curves([panel], size=(4.2, 2.6), legend=False)
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
        notes = {'loss': 'all that is trained on'}
        named = [drawn(k, k.removeprefix(PREFIX), notes.get(k, ''), zero=True) for k in chosen]
        groups += [dict(title=title, charts=named)] if named else []
    found = sorted({k for run in runs for line in run.lines for k in line})
    unseen = [
        drawn(k, k.removeprefix(VALIDATION_LOSS), zero=True)
        for k in found
        if k.startswith(VALIDATION_LOSS)
    ]
    if unseen:
        groups.append(dict(title='Distillation losses on the validation set', charts=unseen))
    return dict(charts=groups)


def write_curves(path: Path, runs: Sequence[Run]) -> bool:
    """Draw the metrics and the sum of the losses as PNG; False where nothing was logged."""
    panels = [_panel(runs, m.key, m.title, m.scale) for m in known_metrics(runs)[:2]]
    if any(run.lines for run in runs):
        panels.append(_panel(runs, 'loss', 'loss'))
    if panels:
        draw_curves(panels).savefig(path)
    return bool(panels)


def _panel(
    runs: Sequence[Run], key: str, title: str, scale: float = 1, from_zero: bool = False
) -> Chart:
    curves = []
    for run in runs:
        steps, values = curve(run.lines, key)
        curves.append(Curve(run.name, run.colour, steps, [value * scale for value in values]))
    return Chart(title, curves, from_zero)
