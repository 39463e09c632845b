"""Measure exits: metric against time (``kd-dense anytime``)."""

from kd_dense.commands.anytime import main

if __name__ == '__main__':
    main()
