"""Build the embedded data set of handwritten digits (``kd-dense make-digits``)."""

from kd_dense.commands.make_digits import main

if __name__ == '__main__':
    main()
