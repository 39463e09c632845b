"""Numbers that are the same on every machine and torch: for values recorded from published code."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    """sin(phase), sin(phase + 0.7), ... in a shape."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) * 0.7 + phase).sin().float().reshape(shape)


def set_waves(module: nn.Module) -> None:
    """Give each parameter of a module, in order, other such numbers, at a tenth of their size."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(0.1 * wave(*parameter.shape, phase=float(index)))
