"""The report of loss balance: means over the measured steps, what is wrong, and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from ..losses.base import DistillationLoss
from ..text_table import text_table

STUDENT = "the student's own"
GRAVE = 1000  # times the gradient of all others together


class LossProblem(NamedTuple):
    """What is wrong with a loss.

    Attributes:
        name: of the loss.
        text: a sentence, with what to do.
        grave: whether the training cannot go well with it.
    """

    name: str
    text: str
    grave: bool


class Measure(NamedTuple):
    """What one loss does in one step: its weighted value, and the norm of its gradient."""

    value: float
    norm: float


class Row(NamedTuple):
    """One loss over all measured steps.

    Attributes:
        weight, factor: of a distillation loss; the student's own has None.
        value, gradient_norm: means; None for a loss that was not in force.
        share: of the summed gradient norms, the mean over the steps.
    """

    weight: float | None
    factor: float | None
    value: float | None
    gradient_norm: float | None
    share: float | None

    @property
    def finite(self) -> bool:
        """Whether value and gradient were finite in all steps."""
        return self.value is None or math.isfinite(self.value + self.gradient_norm)


def summarize(
    steps: Sequence[Mapping[str, Measure]], losses: Mapping[str, DistillationLoss]
) -> dict[str, Row]:
    """One row for the student's own loss and for each distillation loss.

    Args:
        steps: what was measured, by name; a loss that was not in force is left out.
        losses: the distillation losses by name.
    """
    totals = [sum(m.norm for m in step.values() if math.isfinite(m.norm)) for step in steps]
    rows = {}
    for name in (STUDENT, *losses):
        measured = [step[name] for step in steps if name in step]
        shares = [
            step[name].norm / total if total else 0.0
            for step, total in zip(steps, totals, strict=True)
            if name in step
        ]
        loss = losses[name] if name != STUDENT else None
        rows[name] = Row(
            loss and loss.weight,
            loss and loss.factor,
            fmean(m.value for m in measured) if measured else None,
            fmean(m.norm for m in measured) if measured else None,
            fmean(shares) if measured else None,
        )
    return rows


def find_problems(rows: Mapping[str, Row], warn_above: float) -> list[LossProblem]:
    """Losses that drown the others, are dead or not finite.

    A loss whose gradient is a thousand times that of all others together is grave, and so is one
    that is not finite.

    Args:
        rows: see :func:`summarize`.
        warn_above: the share from which on a loss drowns the others.
    """
    found = []
    norms = [r.gradient_norm for r in rows.values() if r.gradient_norm is not None]
    for name, row in rows.items():
        option = f'`--cfg-options model.losses.{name}.weight='
        if not row.finite:
            text = (
                f'{_title(name)} is not finite (value {row.value}, gradient {row.gradient_norm}): '
                'the training cannot go well. '
                + (
                    'Check the data and the learning rate.'
                    if name == STUDENT
                    else f"Check the temperature and the teacher's dtype; {option}0` leaves it out."
                )
            )
            found.append(LossProblem(name, text, grave=True))
        elif name == STUDENT or row.value is None:
            continue
        elif row.gradient_norm == 0:
            text = (
                f'{_title(name)} gives the student no gradient: its region may be empty, or '
                f'teacher and student agree there. Check its region; {option}0` leaves it out.'
            )
            found.append(LossProblem(name, text, grave=False))
        elif row.share > warn_above and len(norms) > 1:
            others = sum(n for n in norms if math.isfinite(n)) - row.gradient_norm
            even = row.weight * others / row.gradient_norm
            text = (
                f'{_title(name)} makes {row.share:.0%} of the gradient and drowns the others. '
                f'{option}{even:.2g}` would bring it to half.'
            )
            found.append(LossProblem(name, text, grave=row.gradient_norm >= GRAVE * others))
    return found


def as_text(rows: Mapping[str, Row], num_steps: int) -> str:
    """The table for the log."""
    cells = []
    for name, row in rows.items():
        weight, factor = ('-' if x is None else f'{x:.4g}' for x in (row.weight, row.factor))
        measured = ['off', '-', '-']
        if row.value is not None:
            measured = [f'{row.value:.4g}', f'{row.gradient_norm:.4g}', f'{row.share:.0%}']
        cells.append((_title(name), weight, factor, *measured))
    header = ('loss', 'weight', 'factor', 'value', 'gradient', 'share')
    title = f'Balance of the losses (mean of {num_steps} steps; gradient: norm on the student)'
    return '\n'.join([title, *text_table(cells, header, right=True)])


def _title(name: str) -> str:
    return name if name == STUDENT else f'losses.{name}'
