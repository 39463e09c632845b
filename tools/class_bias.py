"""Shift a student's bias of one class (``kd-dense class-bias``)."""

from kd_dense.commands.class_bias import main

if __name__ == '__main__':
    main()
