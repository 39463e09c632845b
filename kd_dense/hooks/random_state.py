"""Resume with the random numbers that the uninterrupted training would have drawn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Save the random state of each checkpoint and take it up again on resume.

    mmengine's iteration loop replays the data up to the checkpoint, so data workers draw what they
    would have drawn; what the model draws (dropout, drop path) is restored here. Checkpoints are
    written by rank 0, so other ranks of a resumed training draw other numbers than before.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put the random state into the checkpoint."""
        python = random.getstate()
        numpy = np.random.get_state()
        checkpoint['random_state'] = dict(
            python=[python[0], list(python[1]), python[2]],
            numpy=[numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]],
            torch=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the state until the data was replayed."""
        if runner._resume and runner.rank == 0:
            self._state = checkpoint.get('random_state')

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Take the state up before the first step after a resume."""
        if self._state is None:
            return
        state, self._state = self._state, None
        version, internal, gauss = state['python']
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state['numpy']
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state['torch'])
        if state['cuda'] and len(state['cuda']) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state['cuda'])
