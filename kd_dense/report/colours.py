"""The colours of runs, the same on the page and in its pictures."""

from __future__ import annotations

from collections.abc import Sequence

from .runs import ALONE, DISTILLED, OTHER, TEACHER, Run

COLOURS = {
    TEACHER: ('#5b6472', '#98a1ad', '#3a4250'),
    ALONE: ('#d0801f', '#e3ad6a', '#a55f0c'),
    DISTILLED: ('#00796b', '#3f5bd8', '#9c36b5', '#5c940d', '#c2255c'),
    OTHER: ('#868e96', '#adb5bd', '#495057'),
}


def colours(runs: Sequence[Run]) -> list[str]:
    """One for each run, by its role; those of a role take turns."""
    counts = dict.fromkeys(COLOURS, 0)
    found = []
    for run in runs:
        own = COLOURS[run.role]
        found.append(own[counts[run.role] % len(own)])
        counts[run.role] += 1
    return found
