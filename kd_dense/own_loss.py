"""The own loss of a model that trains: whether it runs, what it counts, in which precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .errors import SetupError

OwnLosses = dict[str, Any]  # as hosts return them: tensors, lists with one for each level, metrics


def check_own_loss(own_loss: Any, own_weight: Any) -> None:
    """Check what a config says of the student's own loss.

    Raises:
        SetupError: neither True nor False, a weight that is none, or one of a loss that is off.
    """
    if not isinstance(own_loss, bool):
        raise SetupError(f'own_loss is {own_loss!r}; it is True or False.')
    check_own_weight('own_weight', own_weight)
    if not own_loss and own_weight != 1:
        raise SetupError(
            f'own_weight is {own_weight} of a loss that `own_loss=False` turns off. Leave one out: '
            '`own_weight=0` still runs the own loss, for losses that need its labels.'
        )


def check_own_weight(where: str, weight: Any) -> None:
    """Check what an own loss is multiplied by.

    Raises:
        SetupError: it is no finite number, 0 or more.
    """
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 <= weight < math.inf:
        raise SetupError(f'{where} is {weight!r}; it is a finite number, 0 or more.')


def weighted(losses: Mapping[str, Any], weight: float) -> OwnLosses:
    """A host's losses times a weight; what it reports besides them stays as it is."""
    if weight == 1:
        return dict(losses)
    return {n: _times(value, weight) if 'loss' in n else value for n, value in losses.items()}


def _times(value: Tensor | Sequence[Tensor], weight: float) -> Tensor | list[Tensor]:
    return value * weight if isinstance(value, Tensor) else [each * weight for each in value]


def precision(device: str) -> Callable[[], AbstractContextManager[object]]:
    """The autocast in force now, to be entered again where models run inside the losses.

    Args:
        device: its type, ``'cuda'``.
    """
    if hasattr(torch, 'get_autocast_dtype'):
        on, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    elif device == 'cpu':
        on, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        on, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return partial(torch.autocast, device, dtype=dtype, enabled=on)
