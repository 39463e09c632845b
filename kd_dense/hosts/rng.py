"""Random numbers of our own, so that a student draws the ones it would draw without us."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine import dist


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Leave the random state outside as it is, so that a student starts as it would without us.

    Args:
        seed: of torch's random numbers inside; None goes on from the state outside.
    """
    with _as_they_were(), torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Draw from Python's, NumPy's and torch's random numbers of the CPU as a seed says, inside.

    Outside all go on as if nothing had been drawn.

    Args:
        seed: of all three, below 2^32.
    """
    with _as_they_were(), torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield


@contextmanager
def _as_they_were() -> Iterator[None]:
    """Leave Python's and NumPy's random numbers as they are."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def numbered_generator(
    seed: int, number: int, device: torch.device | str = 'cpu'
) -> torch.Generator:
    """A generator of its own for the n-th drawing, the same again in a resumed training.

    Args:
        seed: of the whole series; each rank draws its own.
        number: of the drawing.
        device: where it draws.
    """
    mixed = (seed * 1_000_003 + number) * 4096 + dist.get_rank()
    return torch.Generator(device).manual_seed(mixed)
