"""What the hooks share: finding the distiller, and looking at a model without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..distiller import Distiller
from ..errors import SetupError
from ..hosts import isolated_rng


def distiller_of(runner: Runner, hook: str) -> Distiller:
    """The distiller that a runner trains, out of its data-parallel wrapper.

    Args:
        runner: with a built model.
        hook: class name of the hook that asks, for the message.

    Raises:
        SetupError: the model is no distiller.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if not isinstance(model, Distiller):
        raise SetupError(
            f'kd_dense.{hook} is at work on a {type(model).__name__}; it needs a distiller. Set '
            "`model.type='kd_dense.Distiller'`, or take the hook out of `custom_hooks`."
        )
    return model


@contextmanager
def restored_afterwards(model: nn.Module) -> Iterator[None]:
    """Run a model aside: random state, buffers and modes are afterwards what they were before."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        with isolated_rng():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)
