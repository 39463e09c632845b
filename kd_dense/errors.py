"""The error of everything a user can put right, and what one is told of."""

from __future__ import annotations

from typing import NamedTuple


class SetupError(ValueError):
    """Something a user can put right: found, expected, and the way out in a sentence.

    The tools print it without a traceback.
    """


class Finding(NamedTuple):
    """What is wrong; an error before training, a line of the check's table.

    Attributes:
        problem: in a sentence.
        way_out: what to do about it; empty where the problem says so itself.
    """

    problem: str
    way_out: str = ''

    def __str__(self) -> str:
        return ' '.join(filter(None, self))
