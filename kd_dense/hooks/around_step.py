"""What a distiller does around each step, also in data-parallel training."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ..registry import HOOKS
from .common import distiller_of


@HOOKS.register_module()
class AroundStepHook(Hook):
    """Guard each step of the optimizer, and let the teachers do what they do behind it.

    Steps whose gradients are not finite are left out (:class:`~kd_dense.nonfinite.StepGuard`).
    ``kd-dense train`` adds this hook to each distillation. Without it a training in several
    processes is not guarded, and teachers that change stand still: data-parallel wrappers take the
    step without asking the distiller.
    """

    def before_train(self, runner: Runner) -> None:
        """Watch the optimizer."""
        distiller = distiller_of(runner, 'AroundStepHook')
        distiller.step_guard.watch(runner.optim_wrapper)
        distiller.step_guard.keep_statistics(distiller)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Tell the teachers of the step; count the overflows of mixed precision.

        Raises:
            SetupError: too many in a row.
        """
        distiller = distiller_of(runner, 'AroundStepHook')
        if is_model_wrapper(runner.model):  # else the distiller has done it in its own step
            distiller.after_step()
        distiller.step_guard.check_scalers(runner.optim_wrapper)
