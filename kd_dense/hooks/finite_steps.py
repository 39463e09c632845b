"""Leave out steps whose gradients are not finite, also in data-parallel training."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS
from .common import distiller_of


@HOOKS.register_module()
class FiniteStepsHook(Hook):
    """Let the distiller's :class:`~kd_dense.nonfinite.StepGuard` watch the training's optimizer.

    ``tools/train.py`` adds it to each distillation. Without it the guard watches trainings in one
    process alone: data-parallel wrappers do not show the distiller its optimizer.
    """

    def before_train(self, runner: Runner) -> None:
        """Watch the optimizer."""
        distiller_of(runner, 'FiniteStepsHook').step_guard.watch(runner.optim_wrapper)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Count the overflows of mixed precision.

        Raises:
            SetupError: too many in a row.
        """
        distiller_of(runner, 'FiniteStepsHook').step_guard.check_scalers(runner.optim_wrapper)
