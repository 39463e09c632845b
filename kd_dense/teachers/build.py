"""Build teachers from their part of a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..building import build, kind_of
from ..errors import SetupError
from ..registry import TEACHERS
from .base import Teacher

FROZEN = 'kd_dense.FrozenTeacher'


def teacher_from(config: Mapping[str, Any] | Teacher, name: str = 'teacher') -> Teacher:
    """Build a teacher from its part of the config.

    Args:
        config: arguments of a teacher; ``type`` names another kind than a frozen one.
        name: what the distiller calls it.

    Raises:
        SetupError: an unknown type or key.
    """
    if isinstance(config, Teacher):
        teacher = config
    else:
        kind = kind_of(TEACHERS, config, f'The {name}', Teacher, default=FROZEN)
        teacher = build(kind, config, f'The {name}')
    teacher.name = name
    return teacher


def build_teachers(
    teacher: Mapping[str, Any] | Teacher | None,
    teachers: Mapping[str, Mapping[str, Any] | Teacher] | None,
    peers: bool = False,
) -> dict[str, Teacher]:
    """Build the teachers of a distiller by name.

    Args:
        teacher: of one, who is called ``'teacher'``.
        teachers: of several by name, in its place.
        peers: whether students teach each other, who need no teacher besides.

    Raises:
        SetupError: neither or both are given, or one cannot be built.
    """
    if (teacher is not None and teachers) or not (teacher is not None or teachers or peers):
        raise SetupError(
            'A distiller has one `teacher=dict(config=..., checkpoint=...)`, or several as '
            '`teachers=dict(NAME=dict(...))`; found ' + ('both.' if teachers else 'neither.')
        )
    named = {'teacher': teacher} if teacher is not None else dict(teachers or {})
    return {name: teacher_from(each, name) for name, each in named.items() if each is not None}
