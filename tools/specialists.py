"""Find classes that a detector confuses, for specialists (``kd-dense specialists``)."""

from kd_dense.commands.specialists import main

if __name__ == '__main__':
    main()
