"""Draw the losses and the AP or mIoU of several trainings in one picture (``kd-dense plot``)."""

from kd_dense.commands.plot import main

if __name__ == '__main__':
    main()
