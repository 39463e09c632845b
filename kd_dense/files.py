"""Files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Around the writing of a file: under another name beside its place, and renamed when done.

    Neither a full disk nor a kill leaves half a file under the name; folders are made.

    Args:
        target: what the file is called in the end.

    Yields:
        where to write it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    yield part
    part.replace(target)


def part_of(target: Path) -> Path:
    """Where a file stands until it is whole; a kill leaves it there, to be written over."""
    return target.with_name(f'.{target.name}.part')
