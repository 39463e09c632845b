"""A model that trains in the same step, as the others look at it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from ..hosts import Host
from ..views import Batch, View
from .of_model import ModelTeacher


class LiveTeacher(ModelTeacher):
    """A student as another student's teacher: what its own loss computed, detached.

    It costs no pass of its own. The distiller tells it in each step of the pass that it trains by.

    Args:
        model: that trains.
        name: what the distiller calls it.
    """

    def __init__(self, model: Host, name: str) -> None:
        self._model = model
        self.name = name
        self.source = f'{name}, which trains in the same step'
        self._loaded = False
        self._pass: View | None = None
        self._context: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def model(self) -> Host:
        """The model that trains."""
        return self._model

    @property
    def loaded(self) -> bool:
        """Whether :meth:`load` was called."""
        return self._loaded

    def load(self, student: Host) -> None:
        """Nothing is to be loaded: its weights are those of the training."""
        self._loaded = True

    def trained_by(
        self, own: View, context: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        """Take note of the pass of a step.

        Args:
            own: the model's view of the batch, whose own loss has run.
            context: entered around what is computed besides, as the autocast of the training.
        """
        self._pass, self._context = own, context

    def forget(self) -> None:
        """Let go of the pass, and of the memory that it holds."""
        self._pass = None

    @property
    def own_pass(self) -> View:
        """The view of its own pass in this step."""
        if self._pass is None:
            raise RuntimeError(f'{self.name} has not run in this step.')
        return self._pass

    def view(self, batch: Batch, student: View | None = None) -> View:
        """What another student may look at in this step's pass.

        Args:
            batch: not used: the pass is of the training's batch.
            student: the view of who learns.
        """
        if student is None:
            raise RuntimeError(f'{self.name} is looked at by a student, whose view is needed.')
        return self.own_pass.looked_at_by(student, self._context)

    def predictor(self) -> nn.Module:
        """The model itself."""
        return self.model
