"""The optimizers of a student and of losses that train something of their own, each its schedule.

All of it is mmengine's own means: an ``OptimWrapperDict`` whose ``update_params`` takes one step of
the game, so the training loop, data-parallel wrappers, schedules, logs and checkpoints are those of
any training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine import dist
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import Tensor, nn

from ...errors import SetupError
from ...registry import OPTIM_WRAPPER_CONSTRUCTORS
from ..base import DistillationLoss
from .holistic import OPTIMIZERS

STUDENT, DISCRIMINATOR = 'student', 'discriminator'


class AdversarialOptimWrapper(OptimWrapperDict):
    """The optimizers of the student and of the losses' own modules, in one step each.

    A loss takes part that gives an :meth:`~kd_dense.DistillationLoss.own_module`: a discriminator.

    What training asks of an optimizer wrapper is the student's: mixed precision, gradient
    accumulation, clipping. After its step the discriminators take theirs, on what they were shown,
    in float32.

    A step whose loss or gradient is not finite, on any rank, is left out, on all ranks, and
    reported: neither side's weights are touched by it.

    Args:
        losses: those with an own module, by name.
        shown: what the losses were shown of the batch, by name; emptied behind each step.
        student: the student's wrapper.
        discriminator: the own modules' wrapper.
    """

    def __init__(
        self,
        losses: Mapping[str, DistillationLoss],
        shown: dict[str, Any],
        student: OptimWrapper,
        discriminator: OptimWrapper,
    ) -> None:
        super().__init__(**{STUDENT: student, DISCRIMINATOR: discriminator})
        self.losses = dict(losses)
        self.shown = shown
        for loss in self.losses.values():
            loss.has_optimizer = True

    @property
    def loss_scaler(self) -> Any:
        """The student's, in mixed precision."""
        return getattr(self[STUDENT], 'loss_scaler', None)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter the student's context: its precision and its accumulation of gradients."""
        with self[STUDENT].optim_context(model):
            yield

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Tell both where the training stands, for gradient accumulation."""
        self[STUDENT].initialize_count_status(model, cur_iter, max_iters)
        turns = max(loss.steps for loss in self.losses.values())
        self[DISCRIMINATOR].initialize_count_status(model, cur_iter * turns, max_iters * turns)

    def update_params(
        self, loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None
    ) -> None:
        """One step: the student's, then those of the losses' own modules.

        Args:
            loss: of the student, a scalar.
            step_kwargs, zero_kwargs: passed on to the student's optimizer.
        """
        self._update(STUDENT, loss, step_kwargs or {}, zero_kwargs or {}, synced=True)
        turns = max((self.losses[name].steps for name in self.shown), default=0)
        for turn in range(turns):
            self._own_turn([n for n in self.shown if turn < self.losses[n].steps])
        self.shown.clear()

    def _own_turn(self, names: list[str]) -> None:
        log = MessageHub.get_current_instance().update_scalar
        totals = []
        for name in names:
            values = self.losses[name].own_losses(self.shown[name])
            totals.append(values['total'])
            for part in values:
                if part != 'total':
                    log(f'train/discriminator_{part}/{name}', float(values[part].detach()))
        self._update(DISCRIMINATOR, torch.stack(totals).sum(), {}, {}, synced=False)

    def _update(
        self, side: str, loss: Tensor, step_kwargs: dict, zero_kwargs: dict, synced: bool
    ) -> None:
        """As ``OptimWrapper.update_params``.

        Args:
            synced: whether the gradients are averaged over the ranks already, by DDP.
        """
        wrapper = self[side]
        wrapper.backward(wrapper.scale_loss(loss))
        if not wrapper.should_update():
            return
        if not synced:
            for group in wrapper.optimizer.param_groups:
                for parameter in group['params']:
                    if parameter.grad is not None:
                        dist.all_reduce(parameter.grad, op='mean')
        wrapper.step(**step_kwargs)
        wrapper.zero_grad(**zero_kwargs)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class AdversarialOptimWrapperConstructor:
    """Builds the optimizers of a distiller whose losses have a discriminator.

    In a config::

        optim_wrapper = dict(
            constructor='kd_dense.AdversarialOptimWrapperConstructor',
            student=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
            discriminator=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4)),
        )
        param_scheduler = dict(student=[...], discriminator=[...])  # or one list for both

    The student's holds the student and adapters, the discriminator's the discriminators; each part
    may have its own ``constructor`` and ``paramwise_cfg``.

    Args:
        optim_wrapper_cfg: ``student`` and ``discriminator``.
        paramwise_cfg: none; it belongs into ``student``.

    Raises:
        SetupError: other parts than these two, or a model without discriminators.
    """

    def __init__(
        self,
        optim_wrapper_cfg: Mapping[str, Any],
        paramwise_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        found = {k for k in optim_wrapper_cfg if k != 'type'}
        if found != {STUDENT, DISCRIMINATOR} or paramwise_cfg is not None:
            raise SetupError(
                f'An adversarial training has two optimizers: {OPTIMIZERS}. Found '
                f'{sorted(found) + ["paramwise_cfg"] * (paramwise_cfg is not None)}.'
            )
        self.config = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> AdversarialOptimWrapper:
        """Build them for a model, which may stand in a data-parallel wrapper."""
        distiller: Any = model.module if is_model_wrapper(model) else model
        losses = getattr(distiller, 'losses', {})
        own = {name: loss for name, loss in losses.items() if loss.own_module() is not None}
        if not own:
            raise SetupError(
                f'No loss of this {type(distiller).__name__} has a discriminator to optimize. Use '
                'a plain optimizer (`optim_wrapper=dict(_delete_=True, ...)`), or '
                "`type='kd_dense.Holistic'` among the losses."
            )
        others = {name: loss for name, loss in losses.items() if name not in own}
        # the names of the parameters stay those of the distiller, for `paramwise_cfg`
        ours = nn.ModuleDict(dict(student=distiller.student, losses=nn.ModuleDict(others)))
        theirs = nn.ModuleDict({name: loss.own_module() for name, loss in own.items()})
        for parameter in theirs.parameters():
            dist.broadcast(parameter.data)
        wrapper = AdversarialOptimWrapper(
            own,
            distiller.shown,
            build_optim_wrapper(ours, self.config[STUDENT]),
            build_optim_wrapper(theirs, self.config[DISCRIMINATOR]),
        )
        distiller.step_guard.watch(wrapper)
        return wrapper
