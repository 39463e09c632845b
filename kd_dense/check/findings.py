"""What an examination found: lines with a mark, in sections; as text and for programs."""

from __future__ import annotations

import json
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from ..errors import SetupError
from ..faults import explain
from ..text_table import text_table

OK, WARNING, WRONG, SKIPPED = 'ok', 'warning', 'wrong', '-'
STYLES = {OK: 'green', WARNING: 'yellow', WRONG: 'red', SKIPPED: 'dim'}


@dataclass
class Line:
    """One thing that was looked at.

    Args:
        item: what it is.
        cells: what was found, a text for each column of the section.
        mark: ``'ok'``, ``'warning'``, ``'wrong'``, or ``'-'`` for what could not be examined.
        problem: what is the matter with it, in a sentence.
        way_out: what to do about it; empty where the problem says so itself.
        data: numbers and names for programs.
    """

    item: str
    cells: tuple[str, ...] = ()
    mark: str = OK
    problem: str = ''
    way_out: str = ''
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Section:
    """Lines on one subject.

    Args:
        title: of the subject.
        columns: headings of the cells.
        summary: all of it in a few words.
    """

    title: str
    columns: tuple[str, ...] = ()
    summary: str = ''
    lines: list[Line] = field(default_factory=list)

    def tell(
        self,
        item: str,
        *cells: str,
        problem: str = '',
        way_out: str = '',
        mark: str = WRONG,
        **data: Any,
    ) -> None:
        """Add a line: without a problem it is as it should be.

        Args:
            item, cells, problem, way_out, data: see :class:`Line`.
            mark: of a problem; :data:`WRONG` is what spoils the training, or stops it.
        """
        if not problem:
            mark, way_out = OK, ''
        self.lines.append(Line(item, cells, mark, problem, way_out, data))

    def skipped(self, item: str, why: str) -> None:
        """Add what could not be examined."""
        self.lines.append(Line(item, mark=SKIPPED, problem=why))

    def findings(self, *marks: str) -> list[Line]:
        """The lines with one of these marks; without any: warnings and what is wrong."""
        return [line for line in self.lines if line.mark in (marks or (WARNING, WRONG))]

    @property
    def mark(self) -> str:
        """The worst mark of its lines."""
        marks = {line.mark for line in self.lines}
        return next((mark for mark in (WRONG, WARNING, OK) if mark in marks), SKIPPED)

    @contextmanager
    def collect_errors(self, item: str) -> Iterator[None]:
        """Add whatever breaks inside as wrong: the training would break there too."""
        try:
            yield
        except Exception as error:  # of any code of the hosts
            if (sentence := explain(error)) is not None:
                self.tell(item, problem=sentence)
                return
            where = traceback.extract_tb(error.__traceback__)[-1]
            name = '/'.join(Path(where.filename).parts[-3:])
            place = f'raised in {name}:{where.lineno}'
            self.tell(item, problem=f'{type(error).__name__}: {error} ({place})')


@dataclass
class Report:
    """All that was examined.

    Args:
        subject: what was examined, such as the path of a config.
        sections: by subject.
    """

    subject: str
    sections: list[Section] = field(default_factory=list)

    def section(self, title: str, *columns: str) -> Section:
        """Begin a section."""
        self.sections.append(Section(title, columns))
        return self.sections[-1]

    def findings(self, *marks: str) -> list[Line]:
        """See :meth:`Section.findings`, of all sections."""
        return [line for section in self.sections for line in section.findings(*marks)]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; warnings do not count."""
        return not self.findings(WRONG)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows neither infinities nor NaN: those become text."""
        told = dict(
            subject=self.subject,
            healthy=self.healthy,
            wrong=len(self.findings(WRONG)),
            warnings=len(self.findings(WARNING)),
            sections=[_section_dict(section) for section in self.sections],
        )
        return json.loads(json.dumps(told), parse_constant=lambda name: str(float(name)))

    def refuse(self) -> None:
        """Refuse a training in which something is wrong.

        Raises:
            SetupError: all that is not right, at once.
        """
        if self.healthy:
            return
        found = [' '.join(filter(None, (f.problem, f.way_out))) for f in self.findings()]
        if len(found) == 1:
            raise SetupError(found[0])
        listed = '\n  - '.join(found)
        raise SetupError(
            f'{len(found)} things are not right with {self.subject}:\n  - {listed}\n'
            '`--no-check` trains all the same, where that is possible.'
        )

    def as_table(self, width: int = 100, colour: bool = False) -> str:
        """For a terminal: a line for each thing examined, the way out below what is not right.

        Args:
            width: of the terminal, in characters.
            colour: whether marks are coloured.
        """
        blocks = [f'Check of {self.subject}']
        for section in self.sections:
            header = ('', '', *section.columns) if any(section.columns) else ()
            rows = [((line.mark, line.item, *line.cells), [line]) for line in section.lines]
            blocks.append('\n'.join([section.title, *_rendered(rows, width, header, colour)]))
        wrong, warnings = len(self.findings(WRONG)), len(self.findings(WARNING))
        verdict = f'{wrong} wrong, {warnings} warning{"" if warnings == 1 else "s"}: '
        verdict += 'put right what is wrong' if wrong else 'look at them'
        verdict += ' before you train.'
        return '\n\n'.join([*blocks, verdict if wrong or warnings else 'Nothing is wrong.'])

    def as_lines(self, width: int = 100) -> str:
        """For a log: one line for each section, and what is not right."""
        title = f'Check of {self.subject} (`kd-dense check` looks closer, `--no-check` skips it)'
        rows = [((each.mark, each.title, each.summary), each.findings()) for each in self.sections]
        return '\n'.join([title, *_rendered(rows, width)])


def _rendered(
    rows: Sequence[tuple[tuple[str, ...], list[Line]]],
    width: int,
    header: Sequence[str] = (),
    colour: bool = False,
) -> list[str]:
    """A table, its mark first in each row, and below a row what its lines have to say."""
    cells = [(Text(f'{mark:{len(WARNING)}}', STYLES[mark]), *rest) for (mark, *rest), _ in rows]
    shown = text_table(cells, header, colour=colour)
    found = shown[: bool(header)]
    for text, (_, lines) in zip(shown[bool(header) :], rows, strict=True):
        found += [text, *(each for line in lines for each in _explained(line, width - 2))]
    return [f'  {each}' for each in found]


def _explained(line: Line, width: int) -> list[str]:
    """Problem and way out, wrapped below the line they belong to."""
    explained = []
    for lead, text in (('', line.problem), ('-> ', line.way_out)):
        indent = ' ' * (len(WARNING) + 4)
        for paragraph in text.split('\n'):
            explained += textwrap.wrap(
                paragraph, max(width, 60), initial_indent=indent + lead,
                subsequent_indent=indent + ' ' * len(lead),
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
            lead = ' ' * len(lead)
    return explained


def _section_dict(section: Section) -> dict[str, Any]:
    lines = []
    for line in section.lines:
        found: dict[str, Any] = dict(item=line.item, mark=line.mark)
        if section.columns:
            found['cells'] = dict(zip(section.columns, line.cells, strict=False))
        elif line.cells:
            found['text'] = line.cells[0]
        if line.problem:
            found |= dict(problem=line.problem, way_out=line.way_out)
        lines.append(found | (dict(data=line.data) if line.data else {}))
    return dict(title=section.title, mark=section.mark, lines=lines)
