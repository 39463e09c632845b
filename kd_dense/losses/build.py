"""Build the losses of a distiller from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..building import build, kind_of
from ..errors import SetupError
from ..registry import MODELS
from .base import DistillationLoss, Losses


def build_losses(
    configs: Mapping[str, Mapping[str, Any]], teachers: list[str], peers: Sequence[str] = ()
) -> Losses:
    """Build losses by name; each knows afterwards who learns and who is looked at.

    Args:
        configs: of the losses by name.
        teachers: names of the teachers.
        peers: names of the students beside the student.

    Raises:
        SetupError: one is no distillation loss, has unknown arguments, or names somebody who is
            not there; or who learns would be looked at.
    """
    if not isinstance(configs, Mapping):
        raise SetupError(f'`losses` is {configs!r}; it is a dict of losses by name.')
    losses = Losses()
    for name, given in configs.items():
        where = f'losses.{name}'
        kind = kind_of(MODELS, given, where, DistillationLoss)
        config = dict(given)
        student, teacher = config.pop('student', 'student'), config.pop('teacher', None)
        loss = build(kind, config, where)
        loss.name = name
        students = ['student', *peers]
        loss.student_name = _one_of(f'{where}.student', student, students)
        others = [each for each in students if each != loss.student_name] if peers else []
        if teacher is not None and teacher == loss.student_name:
            raise SetupError(f'{where}: {teacher} would learn from itself; name another teacher.')
        loss.teacher_name = _one_of(f'{where}.teacher', teacher, [*teachers, *others])
        losses[name] = loss
    return losses


def _one_of(where: str, name: str | None, known: list[str]) -> str:
    """The name of a student or teacher; where there is only one it need not be said."""
    if name is None and len(known) == 1:
        return known[0]
    if name not in known:
        found = 'is not said' if name is None else f'is {name!r}'
        raise SetupError(f'{where} {found}; choose one of {", ".join(map(repr, known))}.')
    return name
