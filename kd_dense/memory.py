"""What the allocator of a CPU keeps of freed memory."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

MUCH = 2**28  # bytes; to return less costs a small model a tenth of its step
NAMES = (
    'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks', 'fordblks',
    'keepcost',
)  # fmt: skip


class _Info(ctypes.Structure):
    """The struct mallinfo2 of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


def give_back() -> None:
    """Return freed memory to the system where much of it lies there (glibc).

    What a teacher has freed lies in pieces that do not fit what the student needs next, so that a
    process would grow by a tenth of what the two hold.
    """
    library = _library()
    if library is not None and library.mallinfo2().fordblks >= MUCH:
        library.malloc_trim(0)


@cache
def _library() -> Any:
    """The C library; None where it tells nothing of its memory."""
    library = ctypes.CDLL(None)
    if not hasattr(library, 'mallinfo2'):
        return None
    library.mallinfo2.restype = _Info
    return library
