"""Evaluate a student: from a distilled or a plain checkpoint, without its teacher.

The same as ``kd-dense test``.
"""

from kd_dense.commands.test import main

if __name__ == '__main__':
    main()
