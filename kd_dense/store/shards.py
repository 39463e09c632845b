"""Files of records: one safetensors file each, with all values of a name side by side.

A record's tensors differ in shape from picture to picture, so of each name a file holds the values
of all its records in one row (``NAME``), where those of a record begin (``NAME.start``), and
their shapes (``NAME.shape``).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import written_whole

JOURNAL = 'journal.jsonl'
START, SHAPE = '.start', '.shape'


def shard_name(number: int) -> str:
    """What the n-th file of records is called."""
    return f'{number:06d}.safetensors'


def write_shard(path: Path, records: Sequence[Mapping[str, Tensor]]) -> None:
    """Write a file of records; it is there whole or not at all.

    Args:
        path: of the file.
        records: with tensors of the same names and types, empty where a view has no picture.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    tensors: dict[str, Tensor] = {}
    for name in names:
        found = [record.get(name) for record in records]
        some = next(each for each in found if each is not None)
        each_or_none = [some.new_zeros([0] * some.dim()) if v is None else v for v in found]
        sizes = torch.tensor([0] + [each.numel() for each in each_or_none])
        tensors[name] = torch.cat([each.reshape(-1) for each in each_or_none])
        tensors[name + START] = sizes.cumsum(0)
        tensors[name + SHAPE] = torch.tensor(
            [list(each.shape) for each in each_or_none], dtype=torch.int32
        )
    with written_whole(path) as part:
        save_file(tensors, part)
        _to_disk(part)


def read_record(file: Any, names: Sequence[str], index: int) -> dict[str, Tensor]:
    """One record of an open file.

    Args:
        file: of ``safe_open``.
        names: of the record's tensors.
        index: of the record in the file.
    """
    record = {}
    for name in names:
        start, end = file.get_slice(name + START)[index : index + 2].tolist()
        shape = file.get_slice(name + SHAPE)[index].tolist()
        record[name] = file.get_slice(name)[start:end].reshape(shape)
    return record


def open_shard(path: Path) -> tuple[Any, list[str]]:
    """An open file, mapped into memory and not read, and the names of its records' tensors."""
    file = safe_open(path, 'pt')
    return file, [name for name in file.keys() if not name.endswith((START, SHAPE))]  # noqa: SIM118


# -- the journal -----------------------------------------------------------------------------------


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def note_shard(folder: Path, number: int) -> None:
    """Note in a store's journal that a file is whole, behind its writing."""
    path = folder / shard_name(number)
    line = json.dumps(dict(shard=number, bytes=path.stat().st_size, crc32=checksum(path)))
    with (folder / JOURNAL).open('a', encoding='utf-8') as journal:
        journal.write(f'\n{line}\n')  # in a line of its own, whatever a kill left before it
        journal.flush()
        os.fsync(journal.fileno())


def noted_shards(folder: Path) -> dict[int, dict[str, int]]:
    """What the journal says of each file that is whole; half a line of a kill is passed over."""
    path = folder / JOURNAL
    found: dict[int, dict[str, int]] = {}
    for line in path.read_text(encoding='utf-8').splitlines() if path.is_file() else ():
        try:
            said = json.loads(line)
            found[said['shard']] = said
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return found


def _to_disk(path: Path) -> None:
    with path.open('rb') as file:
        os.fsync(file.fileno())
