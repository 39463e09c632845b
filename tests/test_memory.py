"""Freed memory goes back to the system where there is much of it."""

import re
from pathlib import Path

import numpy as np
import pytest

from kd_dense.memory import MUCH, give_back
from tests.helpers.processes import in_ranks

PIECE = 2**16  # bytes, less than what the allocator asks the system for by itself


def resident() -> int:
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmRSS:\s+(\d+) kB', status)[1]) * 2**10


def freed(_: int, number: int, returned: bool) -> None:
    pieces = [np.ones(PIECE, np.uint8) for _ in range(number)]
    last = pieces.pop()  # keeps the heap from shrinking
    held = resident()
    pieces.clear()
    give_back()
    assert last.all()
    assert (held - resident() > number * PIECE / 2) == returned


@pytest.mark.parametrize(('size', 'returned'), [(1.5 * MUCH, True), (0.5 * MUCH, False)])
def test_much_freed_memory_is_returned(size, returned):
    in_ranks(freed, int(size / PIECE), returned, number=1)
