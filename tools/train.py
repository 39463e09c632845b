"""Train a distilled student, a teacher, or a student alone (``kd-dense train``)."""

from kd_dense.commands.train import main

if __name__ == '__main__':
    main()
