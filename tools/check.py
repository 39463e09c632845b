"""Examine a distillation before it is trained: what is wrong, and the way out.

The same as ``kd-dense check``.
"""

from kd_dense.commands.check import main

if __name__ == '__main__':
    main()
