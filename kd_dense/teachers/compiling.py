"""Let a frozen model's convolutions run as compiled code."""

from __future__ import annotations

from collections.abc import Iterator

from mmcv.cnn import ConvModule
from torch import nn

TRUNK = ('backbone', 'neck')


def compile_parts(model: nn.Module) -> None:
    """Compile a model's backbone and neck, and each block of its heads by itself.

    Losses look at parts of heads, so heads are not compiled as wholes. The compiler runs when a
    part is first called, and again for the first images of another size.

    Args:
        model: that only predicts; it is changed, its weights are not.
    """
    for part in _parts(model):
        part.compile()


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    for name, child in model.named_children():
        if name in TRUNK:
            yield child
        else:
            yield from (each for each in child.modules() if isinstance(each, ConvModule))
