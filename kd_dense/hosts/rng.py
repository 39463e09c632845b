"""Random numbers of our own, so that a student draws the ones it would draw without us."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Leave the random state outside as it is, so that a student starts as it would without us.

    Args:
        seed: of torch's random numbers inside; None goes on from the state outside.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
