"""An optimizer for each model that trains, in one step.

mmengine's wrapper clips one norm over all that it holds: in one for several models the gradient of
one would change the steps of the others.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from torch import Tensor, nn

from .errors import SetupError
from .hosts.checkpoints import STUDENT
from .registry import OPTIM_WRAPPER_CONSTRUCTORS

NAME = 'kd_dense.LiveOptimWrapperConstructor'


class LiveOptimWrapper(OptimWrapperDict):
    """The optimizers of the student and of its peers: one backward pass, then a step of each.

    Settings of the training, such as mixed precision and gradient accumulation, are those of the
    student's. In mixed precision all share one scale; a model whose gradient overflows rests.

    Args:
        wrappers: by name, the student's first.
    """

    def __init__(self, **wrappers: OptimWrapper) -> None:
        super().__init__(**wrappers)
        self.first = wrappers[STUDENT]
        self.scaler = getattr(self.first, 'loss_scaler', None)
        for each in wrappers.values():
            if self.scaler is not None:
                each.loss_scaler = self.scaler

    @property
    def loss_scaler(self) -> Any:
        """Of all, in mixed precision."""
        return self.scaler

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter the student's context: its precision and its accumulation of gradients."""
        with self.first.optim_context(model):
            yield

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Tell each where the training stands, for gradient accumulation."""
        for each in self.optim_wrappers.values():
            each.initialize_count_status(model, cur_iter, max_iters)

    def update_params(
        self, loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None
    ) -> None:
        """One step of each model.

        Args:
            loss: the sum of all, a scalar.
            step_kwargs, zero_kwargs: passed on to each optimizer.
        """
        self.first.backward(self.first.scale_loss(loss))
        for each in self.optim_wrappers.values():
            each._inner_count = self.first._inner_count
        if not self.first.should_update():
            return
        for each in self.optim_wrappers.values():
            if self.scaler is None:
                each.step(**(step_kwargs or {}))
                continue
            if each.clip_grad_kwargs:
                self.scaler.unscale_(each.optimizer)
                each._clip_grad()
            self.scaler.step(each.optimizer, **(step_kwargs or {}))
        if self.scaler is not None:
            self.scaler.update(getattr(self.first, '_scale_update_param', None))
        for each in self.optim_wrappers.values():
            each.zero_grad(**(zero_kwargs or {}))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LiveOptimWrapperConstructor:
    """Builds one optimizer for the student and each of its peers, all with the same settings.

    In a config: ``optim_wrapper = dict(constructor='kd_dense.LiveOptimWrapperConstructor')`` on top
    of the student's. ``optim_wrapper`` of a peer says what it has otherwise. Adapters of a loss go
    with who learns by it.

    Args:
        optim_wrapper_cfg: as of a plain training.
        paramwise_cfg: as of a plain training.

    Raises:
        SetupError: the model has no peers.
    """

    def __init__(
        self,
        optim_wrapper_cfg: Mapping[str, Any],
        paramwise_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = dict(optim_wrapper_cfg)
        if paramwise_cfg is not None:
            self.config['paramwise_cfg'] = paramwise_cfg

    def __call__(self, model: nn.Module) -> LiveOptimWrapper:
        """Build them for a distiller, which may stand in a data-parallel wrapper."""
        distiller: Any = model.module if is_model_wrapper(model) else model
        peers = getattr(distiller, 'peers', {})
        if not peers:
            raise SetupError(
                f'{NAME} is for students with `peers`, and this {type(distiller).__name__} has '
                'none. Leave the constructor out.'
            )
        wrappers = {}
        for name in (STUDENT, *peers):
            losses = {n: loss for n, loss in distiller.losses.items() if loss.student_name == name}
            # the names of the parameters stay those of the distiller, for `paramwise_cfg`
            own, changes = {STUDENT: distiller.student}, {}
            if name != STUDENT:
                own = {'peers': nn.ModuleDict({name: peers[name].apart()})}
                changes = peers[name].optim_wrapper
            elif getattr(distiller, 'teacher_modules', None) is not None:
                own['teacher_modules'] = distiller.teacher_modules
            parts = nn.ModuleDict({**own, 'losses': nn.ModuleDict(losses)})
            config = copy.deepcopy({**self.config, **changes})
            wrappers[name] = build_optim_wrapper(parts, config)
        wrapper = LiveOptimWrapper(**wrappers)
        distiller.step_guard.watch(wrapper)
        return wrapper
