"""What a chain notes of a training in its folder: what it was begun with, and what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SetupError
from ..files import written_whole

NOTE = 'stage.json'


def read_note(folder: Path) -> dict[str, Any]:
    """What is noted in a stage's folder; empty where nothing is."""
    return row_of(folder / NOTE)


def row_of(file: Path | None) -> dict[str, Any]:
    """What a file of a stage or a row says: ``fingerprint``, and ``row`` once it is done.

    Raises:
        SetupError: the file is damaged.
    """
    if file is None or not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise SetupError(
            f'{file} cannot be read ({error}). Remove it; the stage is then trained again.'
        ) from None


def write_note(file: Path, note: Mapping[str, Any]) -> None:
    """Write a file of a stage or a row, whole or not at all."""
    with written_whole(file) as part:
        part.write_text(json.dumps(note, indent=1) + '\n', encoding='utf-8')
