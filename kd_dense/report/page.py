"""The page: everything that was read and measured, put into words and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from ..version import __version__
from . import figures, progress, tables, words
from .evidence import Evidence
from .runs import Run

HERE = Path(__file__).parent


def render(
    runs: Sequence[Run], evidence: Evidence, command: str, versions: str, show: int = 4
) -> str:
    """The page as HTML.

    Args:
        runs: the trainings, teachers first.
        evidence: what running the models showed.
        command: that this report was asked for with.
        versions: of what it was made with.
        show: how many images to show of each kind.
    """
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    context = dict(
        segments=evidence.segments,
        runs=runs,
        css=(HERE / 'page.css').read_text(),
        version=__version__,
        command=command,
        versions=versions,
        **tables.numbers(runs),
        **tables.costs(runs, evidence),
        **tables.per_class(runs, evidence),
        **figures.pictures(runs, evidence, show),
        **progress.training(runs),
        **progress.balance(runs),
        made=tables.made(runs),
        limits=words.limits(runs, evidence),
    )
    context |= words.head(runs, evidence)
    context['contents'] = [
        ('numbers', 'Numbers'),
        ('cost', 'Size and speed'),
        ('change', 'What changed'),
        *([('classes', 'Class by class')] if context['per_class'] else []),
        *([('pictures', 'Pictures')] if context['sample'] else []),
        ('curves', 'Training'),
        ('balance', 'Losses'),
        ('made', 'How it was made'),
        ('limits', 'Limits'),
    ]
    return environment.get_template('page.html').render(context)
