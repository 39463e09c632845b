"""The adversarial game: a student and discriminators, each with its optimizer and schedule.

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

from .distiller import Distiller
from .errors import SetupError
from .losses.holistic import OPTIMIZERS, Holistic
from .nonfinite import StepGuard
from .registry import OPTIM_WRAPPER_CONSTRUCTORS

STUDENT, DISCRIMINATOR = 'student', 'discriminator'


class AdversarialOptimWrapper(OptimWrapperDict):
    """The optimizers of the student and of the discriminators of its losses, in one step each.

    What training asks of an optimizer wrapper is the student's: mixed precision, gradient
    accumulation, clipping. After its step the discriminators take theirs, on what they were shown,
    in float32.

    A step whose loss or gradient is not finite, on any rank, is left out, on all ranks, and
    reported: neither side's weights are touched by it.

    Args:
        games: the losses with a discriminator, by name.
        student: the student's wrapper.
        discriminator: the discriminators' wrapper.
    """

    def __init__(
        self, games: Mapping[str, Holistic], student: OptimWrapper, discriminator: OptimWrapper
    ) -> None:
        super().__init__(**{STUDENT: student, DISCRIMINATOR: discriminator})
        self.games = dict(games)
        self.step_guard = StepGuard()
        self.step_guard.watch(self)
        for loss in self.games.values():
            loss.has_optimizer = True

    @property
    def loss_scaler(self) -> Any:
        """The student's, in mixed precision."""
        return getattr(self[STUDENT], 'loss_scaler', None)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The student's."""
        with self[STUDENT].optim_context(model):
            yield

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Tell both where the training stands, for gradient accumulation."""
        self[STUDENT].initialize_count_status(model, cur_iter, max_iters)
        turns = max(game.steps for game in self.games.values())
        self[DISCRIMINATOR].initialize_count_status(model, cur_iter * turns, max_iters * turns)

    def update_params(
        self, loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None
    ) -> None:
        """One step of the game: the student's, then the discriminators'.

        Args:
            loss: of the student, a scalar.
            step_kwargs, zero_kwargs: passed on to the student's optimizer.
        """
        self._update(STUDENT, loss, step_kwargs or {}, zero_kwargs or {}, synced=True)
        shown = {name: game for name, game in self.games.items() if game.shown is not None}
        log = MessageHub.get_current_instance().update_scalar
        for turn in range(max((game.steps for game in shown.values()), default=0)):
            judged = {name: game.judge() for name, game in shown.items() if turn < game.steps}
            for name, parts in judged.items():
                for part in ('gap', 'penalty'):
                    log(f'train/discriminator_{part}/{name}', float(parts[part].detach()))
            total = torch.stack([parts['total'] for parts in judged.values()]).sum()
            self._update(DISCRIMINATOR, total, {}, {}, synced=False)
        for game in shown.values():
            game.shown = None

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
        distiller = model.module if is_model_wrapper(model) else model
        losses = distiller.losses if isinstance(distiller, Distiller) else {}
        games = {name: loss for name, loss in losses.items() if isinstance(loss, Holistic)}
        if not games:
            raise SetupError(
                f'No loss of this {type(distiller).__name__} has a discriminator to optimize. Use '
                'a plain optimizer (`optim_wrapper=dict(_delete_=True, ...)`), or '
                "`type='kd_dense.Holistic'` among the losses."
            )
        others = {name: loss for name, loss in losses.items() if name not in games}
        # the names of the parameters stay those of the distiller, for `paramwise_cfg`
        ours = nn.ModuleDict(dict(student=distiller.student, losses=nn.ModuleDict(others)))
        theirs = nn.ModuleDict({name: game.discriminator for name, game in games.items()})
        for parameter in theirs.parameters():
            dist.broadcast(parameter.data)
        return AdversarialOptimWrapper(
            games,
            build_optim_wrapper(ours, self.config[STUDENT]),
            build_optim_wrapper(theirs, self.config[DISCRIMINATOR]),
        )
