"""Export a trained student (``kd-dense export``)."""

from kd_dense.commands.export import main

if __name__ == '__main__':
    main()
