"""Teachers: whatever a loss looks at, one kind a file."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from ..errors import SetupError
from ..registry import TEACHERS
from .base import Teacher
from .frozen import FrozenTeacher

FROZEN = 'kd_dense.FrozenTeacher'


def teacher_from(config: Mapping[str, Any] | Teacher, name: str = 'teacher') -> Teacher:
    """Build a teacher from its part of the config.

    Args:
        config: arguments of a teacher; ``type`` names another kind than a frozen one.
        name: what the distiller calls it.

    Raises:
        SetupError: an unknown type or key.
    """
    teacher = config if isinstance(config, Teacher) else _built(dict(config), name)
    teacher.name = name
    return teacher


def build_teachers(
    teacher: Mapping[str, Any] | Teacher | None,
    teachers: Mapping[str, Mapping[str, Any] | Teacher] | None,
) -> dict[str, Teacher]:
    """Build the teachers of a distiller by name.

    Args:
        teacher: of one, who is called ``'teacher'``.
        teachers: of several by name, in its place.

    Raises:
        SetupError: neither or both are given, or one cannot be built.
    """
    if (teacher is None) == (not teachers):
        raise SetupError(
            'A distiller has one `teacher=dict(config=..., checkpoint=...)`, or several as '
            '`teachers=dict(NAME=dict(...))`; found ' + ('neither.' if teacher is None else 'both.')
        )
    named = {'teacher': teacher} if teacher is not None else dict(teachers or {})
    return {name: teacher_from(each, name) for name, each in named.items() if each is not None}


def _built(config: dict[str, Any], name: str) -> Teacher:
    kind = config.pop('type', FROZEN)
    kind = TEACHERS.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        known = ', '.join(f"'kd_dense.{each}'" for each in TEACHERS.module_dict)
        raise SetupError(
            f'There is no such type of teacher ({name}); choose one of {known}, or name the module '
            'that registers it in `custom_imports`.'
        )
    parameters = signature(kind).parameters.values()
    names = [p.name for p in parameters]
    needed = [p.name for p in parameters if p.default is p.empty]
    if [key for key in config if key not in names] or [n for n in needed if n not in config]:
        raise SetupError(
            f'The {name} ({kind.__name__}) is configured by {_listed(needed)}, and may have '
            f'{", ".join(n for n in names if n not in needed)}; found {sorted(config)}.'
        )
    return kind(**config)


def _listed(names: list[str]) -> str:
    return ' and '.join(f'`{name}`' for name in names) or 'nothing it must have'


__all__ = ['FROZEN', 'FrozenTeacher', 'Teacher', 'build_teachers', 'teacher_from']
