"""Evaluate a student (``kd-dense test``)."""

from kd_dense.commands.test import main

if __name__ == '__main__':
    main()
