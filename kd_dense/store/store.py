"""A store as a training reads it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import SetupError
from ..files import written_whole
from .manifest import Manifest
from .shards import checksum, noted_shards, open_shard, read_record, shard_name

NAMES = 'images.txt'
OPEN = 16  # files


class Store:
    """The records of a folder, by picture and view.

    Files are opened when first read, in each process by itself.

    Args:
        folder: of the store.

    Raises:
        FileNotFoundError: it is not there.
        SetupError: it is none, or not written to its end.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        self._files: OrderedDict[int, tuple[Any, list[str]]] = OrderedDict()
        missing = missing_shards(self.folder, self.manifest)
        if missing:
            raise SetupError(
                f'The store {self.folder} is not written to its end: {len(missing)} of its '
                f'{self.manifest.shards} files are missing. The command that began it goes on: '
                f'kd-dense store-teacher CONFIG --to {self.folder}'
            )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | dict(_files=OrderedDict())  # for workers that are started anew

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The pictures' numbers, by name."""
        return {name: number for number, name in enumerate(read_names(self.folder))}

    def record(self, name: str, view: int) -> dict[str, Tensor]:
        """What is kept of a view of a picture.

        Args:
            name: of the picture.
            view: 0 to K - 1.
        """
        index = self.numbers[name] * self.manifest.views + view
        shard, inside = divmod(index, self.manifest.per_shard)
        if shard not in self._files:
            self._files[shard] = open_shard(self.folder / shard_name(shard))
            if len(self._files) > OPEN:
                self._files.popitem(last=False)
        self._files.move_to_end(shard)
        return read_record(*self._files[shard], inside)

    def damaged(self) -> list[str]:
        """Names of files whose contents are not those that were written."""
        said = noted_shards(self.folder)
        return [
            shard_name(number)
            for number in range(self.manifest.shards)
            if checksum(self.folder / shard_name(number)) != said[number]['crc32']
        ]

    @cached_property
    def bytes(self) -> int:
        """Of all files of records."""
        return sum(each['bytes'] for each in noted_shards(self.folder).values())


def missing_shards(folder: Path, manifest: Manifest) -> list[int]:
    """Numbers of files that are not there, or not whole by their size.

    Args:
        folder: of a store.
        manifest: of it.
    """
    said = noted_shards(folder)

    def whole(number: int) -> bool:
        path = folder / shard_name(number)
        return number in said and path.is_file() and path.stat().st_size == said[number]['bytes']

    return [number for number in range(manifest.shards) if not whole(number)]


def read_names(folder: Path) -> list[str]:
    """Names of a store's pictures, in the order of their numbers."""
    return (folder / NAMES).read_text(encoding='utf-8').splitlines()


def write_names(folder: Path, names: Iterable[str]) -> None:
    """Write the names of a store's pictures, a line each."""
    with written_whole(folder / NAMES) as part:
        part.write_text('\n'.join(names) + '\n', encoding='utf-8')
