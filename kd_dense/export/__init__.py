"""Bring a trained student to its user: a plain checkpoint, its plain config, an ONNX graph.

Not imported by ``kd_dense`` itself; :mod:`.onnx` is imported only where a graph is asked for.
"""

from .plain import Plain, plain_config, read_plain, write_plain

__all__ = ['Plain', 'plain_config', 'read_plain', 'write_plain']
