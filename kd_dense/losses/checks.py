"""Checks of arguments that several losses share."""

from __future__ import annotations

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
