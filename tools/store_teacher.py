"""Write what a teacher says of the training images into a store (``kd-dense store-teacher``)."""

from kd_dense.commands.store_teacher import main

if __name__ == '__main__':
    main()
