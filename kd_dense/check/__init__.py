"""The check: examines a distillation before days of training are lost."""

from .examine import Options, before_training, examine
from .report import OK, SKIPPED, WARNING, WRONG, Line, Report, Section

__all__ = [
    'OK',
    'SKIPPED',
    'WARNING',
    'WRONG',
    'Line',
    'Options',
    'Report',
    'Section',
    'before_training',
    'examine',
]
