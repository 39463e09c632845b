"""Train teacher, student alone and student taught on your own data (``kd-dense study``)."""

from kd_dense.commands.study import main

if __name__ == '__main__':
    main()
