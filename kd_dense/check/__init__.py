"""The check: examines a distillation before days of training are lost."""

from .examine import Options, before_training, examine, refuse
from .report import OK, SKIPPED, WARNING, WRONG, Line, Report, Section
from .table import as_lines, as_table

__all__ = [
    'OK',
    'SKIPPED',
    'WARNING',
    'WRONG',
    'Line',
    'Options',
    'Report',
    'Section',
    'as_lines',
    'as_table',
    'before_training',
    'examine',
    'refuse',
]
