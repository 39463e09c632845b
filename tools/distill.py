"""Distil any student from any teacher, in one command (``kd-dense distill``)."""

from kd_dense.commands.distill import main

if __name__ == '__main__':
    main()
