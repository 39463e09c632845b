"""The check: examines a distillation before days of training are lost.

Each ``examine_...`` looks at one side of what was built of a config (:class:`.built.Built`), and
tells what it finds in a section of the report (:class:`.findings.Section`).
"""

from .examine import Options, before_training, examine
from .findings import OK, SKIPPED, WARNING, WRONG, Line, Report, Section

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
