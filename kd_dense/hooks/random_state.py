"""Resume with the random numbers that the uninterrupted training would have drawn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..registry import HOOKS


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Save the random state of each checkpoint and take it up again on resume.

    What the model draws (dropout, drop path) and what augmentations draw in the main process goes
    on as in the uninterrupted training, whether a validation lies between or not: the numbers that
    it draws are put back. Augmentations in data workers do not: mmengine starts the workers with
    the numbers they began with; for a resume to the bit with random augmentations set
    ``num_workers=0``. Checkpoints are written by rank 0, so other ranks of a resumed training
    draw other numbers than before.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put the random state into the checkpoint."""
        checkpoint['random_state'] = random_state()

    def before_val(self, runner: Runner) -> None:
        """Remember the state: a training that resumes behind a validation does not repeat it."""
        self._before_validation = random_state()

    def after_val(self, runner: Runner) -> None:
        """Go on as if there had been no validation, whose data loader draws a number."""
        restore(self._before_validation)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the state until training begins."""
        if runner._resume and runner.rank == 0:
            self._state = checkpoint.get('random_state')

    def before_train_epoch(self, runner: Runner) -> None:
        """Take the state up before the first data is read after a resume."""
        if self._state is None:
            return
        restore(self._state)
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._state = None

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Once more torch's: an iteration loop makes a data iterator on resume, which draws one."""
        if self._state is not None:
            restore_torch(self._state)
            self._state = None


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's random numbers, as a checkpoint can hold them."""
    python = random.getstate()
    numpy = np.random.get_state()
    return dict(
        python=[python[0], list(python[1]), python[2]],
        numpy=[numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]],
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def restore(state: dict[str, Any]) -> None:
    """Take up what :func:`random_state` returned."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    restore_torch(state)


def restore_torch(state: dict[str, Any]) -> None:
    """Take up torch's part of it."""
    torch.set_rng_state(state['torch'])
    if state['cuda'] and len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state['cuda'])
