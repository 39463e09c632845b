"""Examine a distillation before it is trained (``kd-dense check``)."""

from kd_dense.commands.check import main

if __name__ == '__main__':
    main()
