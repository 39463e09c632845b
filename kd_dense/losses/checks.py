"""Checks of arguments that several losses share."""

from __future__ import annotations

import math
from typing import Any

from ..errors import SetupError
from ..views import host_info


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise SetupError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise SetupError(f'{name} is {value!r}; choose one of {", ".join(map(repr, choices))}.')


def check_temperature(temperature: float) -> None:
    """Raise SetupError unless the temperature is positive."""
    if not temperature > 0:
        raise SetupError(f'temperature is {temperature}; it must be above 0.')


def check_not_negative(name: str, value: float) -> None:
    """Raise SetupError unless a value is a finite number, 0 or more."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise SetupError(f'{name} is {value!r}; it must be a finite number, 0 or more.')


def check_count(name: str, value: int) -> None:
    """Raise SetupError unless a value is a whole number, 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SetupError(f'{name} is {value!r}; it must be a whole number, 1 or more.')


def softmax_demands(student: Any) -> list[str]:
    """What a loss on class distributions asks of a segmentor and does not find."""
    if host_info(student).activation == 'softmax':
        return []
    return [
        'it compares distributions over classes, and the decode head has one channel for two '
        'classes; set `decode_head.out_channels=2`'
    ]


def standardize_demands(scores: int) -> list[str]:
    """What standardized logits ask and do not find.

    Args:
        scores: of each prediction, that a softmax goes over.
    """
    if scores > 2:
        return []
    return [
        f'standardize=True leaves nothing of {scores} scores but their order, which teaches '
        'nothing; leave it out'
    ]
