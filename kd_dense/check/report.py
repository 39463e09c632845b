"""What an examination found: lines with a mark, in sections."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SetupError

OK, WARNING, WRONG, SKIPPED = 'ok', 'warning', 'wrong', '-'


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

    def ok(self, item: str, *cells: str, **data: Any) -> None:
        """Add what is as it should be."""
        self.lines.append(Line(item, cells, OK, data=data))

    def warning(self, item: str, *cells: str, problem: str, way_out: str = '', **data: Any) -> None:
        """Add what may be wrong."""
        self.lines.append(Line(item, cells, WARNING, problem, way_out, data))

    def wrong(self, item: str, *cells: str, problem: str, way_out: str = '', **data: Any) -> None:
        """Add what spoils the training, or stops it."""
        self.lines.append(Line(item, cells, WRONG, problem, way_out, data))

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
        except (SetupError, FileNotFoundError) as error:
            self.wrong(item, problem=str(error))
        except Exception as error:  # of any code of the hosts
            where = traceback.extract_tb(error.__traceback__)[-1]
            name = '/'.join(Path(where.filename).parts[-3:])
            self.wrong(
                item, problem=f'{type(error).__name__}: {error} (raised in {name}:{where.lineno})'
            )


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
        """For JSON."""
        return _plain(
            dict(
                subject=self.subject,
                healthy=self.healthy,
                wrong=len(self.findings(WRONG)),
                warnings=len(self.findings(WARNING)),
                sections=[_section_dict(section) for section in self.sections],
            )
        )


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
        if line.data:
            found['data'] = line.data
        lines.append(found)
    return dict(title=section.title, mark=section.mark, lines=lines)


def _plain(value: Any) -> Any:
    """A value for JSON, which knows neither infinities nor NaN: those become text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
