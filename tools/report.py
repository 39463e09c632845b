"""Write one page that shows what a distillation brought (``kd-dense report``)."""

from kd_dense.commands.report import main

if __name__ == '__main__':
    main()
