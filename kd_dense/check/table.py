"""The report as text: a table for the terminal, and a few lines for the log of a training."""

from __future__ import annotations

import textwrap
from itertools import zip_longest

from .report import OK, SKIPPED, WARNING, WRONG, Line, Report, Section

COLOURS = {OK: '32', WARNING: '33', WRONG: '31', SKIPPED: '2'}
MARK_WIDTH = len(WARNING)


def as_table(report: Report, width: int = 100, colour: bool = False) -> str:
    """Sections with a line for each thing examined, and the way out below what is not right.

    Args:
        report: to show.
        width: of the terminal, in characters.
        colour: whether marks are coloured.
    """
    blocks = [f'Check of {report.subject}']
    blocks += [_section(section, width, colour) for section in report.sections]
    return '\n\n'.join([*blocks, verdict(report)])


def verdict(report: Report) -> str:
    """All of it in a sentence."""
    wrong, warnings = len(report.findings(WRONG)), len(report.findings(WARNING))
    counted = f'{wrong} wrong, {warnings} warning{"" if warnings == 1 else "s"}'
    if wrong:
        return f'{counted}: put right what is wrong before you train.'
    return f'{counted}: look at them before you train.' if warnings else 'Nothing is wrong.'


def as_lines(report: Report, width: int = 100) -> str:
    """One line for each section, and what is not right."""
    titles = max(len(section.title) for section in report.sections)
    lines = [f'Check of {report.subject} (`kd-dense check` looks closer, `--no-check` skips it)']
    for section in report.sections:
        lines.append(f'  {section.mark:{MARK_WIDTH}}  {section.title:{titles}}  {section.summary}')
        for line in section.findings():
            lines += _explained(line, width, indent=4 + MARK_WIDTH)
    return '\n'.join(line.rstrip() for line in lines)


def _section(section: Section, width: int, colour: bool) -> str:
    rows = [('', *section.columns)] if any(section.columns) else []
    rows += [(line.item, *line.cells) for line in section.lines]
    columns = zip_longest(*rows, fillvalue='')
    widths = [max(len(cell) for cell in column) for column in columns]
    shown = [section.title]
    if any(section.columns):
        shown.append(' ' * (4 + MARK_WIDTH) + _row(('', *section.columns), widths))
    for line in section.lines:
        # coloured behind the padding, which would count the colour's characters
        mark = f'{line.mark:{MARK_WIDTH}}'
        mark = f'\033[{COLOURS[line.mark]}m{mark}\033[0m' if colour else mark
        shown.append(f'  {mark}  {_row((line.item, *line.cells), widths)}')
        shown += _explained(line, width, indent=4 + MARK_WIDTH)
    return '\n'.join(line.rstrip() for line in shown)


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    return '  '.join(f'{cell:{width}}' for cell, width in zip(cells, widths, strict=False))


def _explained(line: Line, width: int, indent: int) -> list[str]:
    """Problem and way out, wrapped below the line they belong to."""
    explained = []
    for lead, text in (('', line.problem), ('-> ', line.way_out)):
        for number, paragraph in enumerate(text.split('\n')):
            start = ' ' * (indent + 2) + (lead if number == 0 else '')
            explained += textwrap.wrap(
                paragraph,
                max(width, 60),
                initial_indent=start,
                subsequent_indent=' ' * (indent + 2 + len(lead)),
                break_long_words=False,
                break_on_hyphens=False,
            )
    return explained
