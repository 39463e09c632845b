"""One page that tells what a distillation brought: numbers, curves, pictures, how it was made.

``kd-dense report`` writes it. Reading (:mod:`.runs`), measuring (:mod:`.running`,
:mod:`.outcomes`, :mod:`.speed`) and showing (:mod:`.page` and its parts) are apart.
"""

from .runs import ROLES, Run, read_runs

__all__ = ['ROLES', 'Run', 'read_runs']
