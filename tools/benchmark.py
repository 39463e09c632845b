"""Time one training step of a pair (``kd-dense benchmark``)."""

from kd_dense.commands.benchmark import main

if __name__ == '__main__':
    main()
