"""Train the stages of a chain file (``kd-dense chain``)."""

from kd_dense.commands.chain import main

if __name__ == '__main__':
    main()
