"""Export a trained student: plain checkpoint and config, and an ONNX graph where asked.

The same as ``kd-dense export``.
"""

from kd_dense.commands.export import main

if __name__ == '__main__':
    main()
