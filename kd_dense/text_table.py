"""Tables as plain lines, for terminals and logs."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def text_table(
    rows: Sequence[Sequence[str | Text]],
    header: Sequence[str] = (),
    right: bool = False,
    colour: bool = False,
) -> list[str]:
    """The lines of a table, one a row, its columns two spaces apart and none cut off.

    Args:
        rows: cells; missing ones at the end stay empty.
        header: titles of the columns; empty for none.
        right: whether all columns but the first are aligned to the right, as numbers are.
        colour: whether the styles of cells show.
    """
    if not (rows or header):
        return []
    table = Table(
        box=None, show_header=any(header), header_style='', pad_edge=False, padding=(0, 1)
    )
    for index in range(max(map(len, [*rows, header]))):
        title = Text(header[index] if index < len(header) else '')
        table.add_column(title, justify='right' if right and index else 'left', no_wrap=True)
    for row in rows:
        # without line breaks, or a row would not be a line
        table.add_row(*(c if isinstance(c, Text) else Text(' '.join(c.splitlines())) for c in row))
    console = Console(
        file=io.StringIO(), width=10_000, force_terminal=colour, legacy_windows=False,
        color_system='standard' if colour else None,
    )  # fmt: skip
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]
