"""The distillation losses on the validation set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from ..errors import SetupError
from ..logs import VALIDATION_LOSS
from ..registry import HOOKS
from .common import distiller_of, restored_afterwards


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Log the distillation losses on the validation set, ``val/loss_kd_NAME``.

    They are taken before the first step, once in ``interval``, and at the end, in evaluation mode,
    and are multiplied by their weights as the training's ``loss_kd_NAME`` are. A value is the mean
    over images, of all ranks. The training stays the same to the bit.

    Annotations are not read, because pipelines for evaluation resize the images alone. A loss that
    asks for them is left out, and so is one whose weight is 0 at the time.

    Where a student is trained in stages this tells how a hint stage goes, whose head finds nothing
    yet. ``train_cfg=dict(val_begin=10**9)`` leaves its evaluation out.

    Args:
        interval: iterations from one to the next, or epochs where the training counts them.

    Raises:
        SetupError: an interval below 1, no validation set, no loss without annotations, or ranks
            that have different numbers of batches.
    """

    priority = 'LOW'  # behind the logger, which writes the losses of the step first

    def __init__(self, interval: int = 100) -> None:
        if interval < 1:
            raise SetupError(
                f'ValidationLossHook got interval={interval}; it must be at least 1. To log no '
                'losses of the validation set, take the hook out of `custom_hooks`.'
            )
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        """Measure, unless a training goes on that has begun before."""
        if runner.val_loop is None:
            raise SetupError(
                'kd_dense.ValidationLossHook finds no validation set. Name one, with '
                '`val_dataloader`, `val_evaluator` and `val_cfg`, or take the hook out of '
                '`custom_hooks`.'
            )
        if runner.iter == 0:
            self._log(runner, 0)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Measure once in ``interval`` iterations."""
        due = self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)
        if due and not _by_epoch(runner):
            self._log(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Measure once in ``interval`` epochs."""
        due = self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)
        if due and _by_epoch(runner):
            self._log(runner, runner.epoch + 1)

    def _log(self, runner: Runner, step: int) -> None:
        losses = distiller_of(runner, 'ValidationLossHook').losses
        active = [name for name, loss in losses.items() if loss.active]
        values = measure_validation(runner) if active else {}
        left_out = [name for name in active if name not in values]
        if left_out and not values:
            raise SetupError(
                f'kd_dense.ValidationLossHook: {", ".join(left_out)} cannot be taken on the '
                'validation set: its annotations are not resized with its images, and a teacher '
                'that is stored knows the training set alone. Take the hook out of `custom_hooks`.'
            )
        unit = 'epoch' if _by_epoch(runner) else 'iter'
        told = [f'loss_kd_{name}: {value:.4f}' for name, value in values.items()]
        told += [f'{name} is not known of these images and is left out' for name in left_out]
        if told:
            runner.logger.info(f'Validation set, {unit} {step}  {"  ".join(told)}')
            scalars = {f'{VALIDATION_LOSS}{name}': value for name, value in values.items()}
            runner.visualizer.add_scalars(scalars, step=step)


def measure_validation(runner: Runner) -> dict[str, float]:
    """The mean of each distillation loss over the validation set; to be called on all ranks.

    Those that need annotations, and those not in force, are not there.

    Args:
        runner: in training.

    Raises:
        SetupError: the ranks have different numbers of batches.
    """
    distiller, loader = distiller_of(runner, 'ValidationLossHook'), runner.val_dataloader
    _check_equal(len(loader))
    sums: Counter[str] = Counter()
    images = 0
    with restored_afterwards(distiller), torch.no_grad():
        distiller.eval()
        for batch in loader:
            data = distiller.data_preprocessor(batch, False)
            values = distiller.losses_without_labels(**data)
            number = len(data['inputs'])
            images += number
            sums.update({name: float(value) * number for name, value in values.items()})
    return _over_ranks({name: total / max(images, 1) for name, total in sums.items()})


def _over_ranks(values: dict[str, float]) -> dict[str, float]:
    """The mean over the ranks, each of which has as many images."""
    found = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(found, op='mean')
    return dict(zip(values, found.tolist(), strict=True))


def _check_equal(batches: int) -> None:
    """Check that no rank would wait for others that have ended: losses count over all ranks."""
    numbers: Iterable[Tensor] = dist.all_gather(torch.tensor(batches))
    if len(found := {int(number) for number in numbers}) > 1:
        raise SetupError(
            f'The ranks have {" and ".join(map(str, sorted(found)))} batches of the validation '
            'set. Let its sampler fill up the last ones: '
            "`sampler=dict(type='DefaultSampler', shuffle=False, round_up=True)`."
        )


def _by_epoch(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)
