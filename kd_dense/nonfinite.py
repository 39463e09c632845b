"""What is not finite stays out of the weights: counted, reported, and in the end an error."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.logging import MessageHub, print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import SetupError

MOST_IN_A_ROW = 50  # steps left out one after the other before the training is ended
GUARDED = '_kd_dense_guarded'  # set on optimizers that are watched


class SkippedCounter:
    """Counts by name, logged as ``train/SCALAR/NAME``; told at the 1st, 2nd, 4th, 8th time and on.

    Args:
        scalar: what the counts are logged as.
    """

    def __init__(self, scalar: str) -> None:
        self.scalar = scalar
        self.counts: Counter[str] = Counter()

    def note(self, name: str, what: str, way_out: str) -> None:
        """Count one more.

        Args:
            name: of what was left out.
            what: a sentence of what happened, without its full stop.
            way_out: what to do if it goes on.
        """
        self.counts[name] += 1
        count = self.counts[name]
        MessageHub.get_current_instance().update_scalar(f'train/{self.scalar}/{name}', count)
        if count & (count - 1) == 0:
            message = f'{what} ({count} by now). If this goes on, {way_out}.'
            print_log(message, 'current', logging.WARNING)


class LossGuard:
    """Finds distillation losses that are not finite, counts and reports them."""

    def __init__(self) -> None:
        self.left_out = SkippedCounter('kd_left_out')

    def not_finite(self, values: Mapping[str, torch.Tensor]) -> list[str]:
        """Names of the losses that would spoil a student, to be left out of this step.

        Args:
            values: of the losses by name, scalars.
        """
        finite = torch.stack([v.detach() for v in values.values()]).isfinite().tolist()
        found = [name for name, fine in zip(values, finite, strict=True) if not fine]
        for name in found:
            self.left_out.note(
                name,
                f'loss_kd_{name} is not finite ({float(values[name].detach()):.4g}) and was left '
                'out of this step',
                'lower its weight or the learning rate, and look at the values of the teacher and '
                'the student',
            )
        return found


class StepGuard:
    """Leaves out each optimizer step whose gradients are not finite, on all ranks.

    Data-parallel training has averaged the gradients by then, so all ranks see the same ones and
    agree. Weights, momentum and weight decay are untouched by a step that is left out, and the
    running statistics of batch norms are put back. In mixed precision the loss scaler leaves out
    steps by itself, and expects some overflows; there the guard counts how many come in a row, and
    puts back statistics only where they are not finite.

    Args:
        most_in_a_row: after so many steps left out one after the other the training is ended.

    Attributes:
        taken: how many steps each optimizer has taken, by name.
    """

    def __init__(self, most_in_a_row: int = MOST_IN_A_ROW) -> None:
        self.most_in_a_row = most_in_a_row
        self.skipped = SkippedCounter('kd_skipped')
        self.in_a_row: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self._scales: dict[str, float] = {}
        self._statistics: Statistics | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StepGuard:
        return StepGuard(self.most_in_a_row)  # a copy of the model (EMA) takes no steps

    def keep_statistics(self, model: nn.Module) -> None:
        """Remember the batch statistics of a model from now on, to put them back.

        Args:
            model: in training; after its weights have been loaded.
        """
        if self._statistics is None:
            self._statistics = Statistics(model)

    def watch(self, optim_wrapper: OptimWrapper | OptimWrapperDict) -> None:
        """Guard the steps of an optimizer wrapper's optimizers; once each, however often called.

        Args:
            optim_wrapper: of a training; of several, each is told of by its name.
        """
        for name, wrapper in _named(optim_wrapper):
            optimizer = wrapper.optimizer
            if not getattr(optimizer, GUARDED, False):
                setattr(optimizer, GUARDED, True)
                optimizer.register_step_pre_hook(
                    lambda optimizer, args, kwargs, name=name: self._before_step(name, optimizer)
                )

    def check_scalers(self, optim_wrapper: OptimWrapper | OptimWrapperDict) -> None:
        """Count the overflows of mixed precision; to be called after each step.

        Raises:
            SetupError: too many in a row.
        """
        for name, wrapper in _named(optim_wrapper):
            scaler = getattr(wrapper, 'loss_scaler', None)
            if not hasattr(scaler, 'get_scale'):
                continue
            scale = scaler.get_scale()
            finite = scale >= self._scales.get(name, 0.0)
            if not finite and self._statistics is not None and not self._statistics.finite():
                self._statistics.put_back()
            self._count(name, finite)
            self._scales[name] = scale

    def _before_step(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        gradients = [p.grad for p in parameters if p.grad is not None]
        finite = are_finite(gradients)
        if not finite:
            for parameter in parameters:
                parameter.grad = None  # which optimizers pass over, momentum and decay included
            if self._statistics is not None:
                self._statistics.put_back()
            self.skipped.note(
                name,
                f'A step of the {name} was left out, its weights are as before: its loss or a '
                'gradient is not finite',
                'lower its learning rate, clip its gradient (`clip_grad=dict(max_norm=...)`) or '
                'lower the weight of the loss that grew',
            )
        elif self._statistics is not None:
            self._statistics.remember()
        self.taken[name] += finite
        self._count(name, finite)

    def _count(self, name: str, finite: bool) -> None:
        self.in_a_row[name] = 0 if finite else self.in_a_row[name] + 1
        if self.in_a_row[name] >= self.most_in_a_row:
            raise SetupError(
                f'{self.most_in_a_row} steps of the {name} in a row had gradients that are not '
                'finite and were left out: it learns nothing any more. Its weights are those '
                'before them. Lower its learning rate, clip its gradient '
                '(`clip_grad=dict(max_norm=...)`), look at the weights of the losses '
                '(loss_balance.json), or go on from an older checkpoint; `load_from` may name '
                'weights that are not finite.'
            )


class Statistics:
    """The running statistics of a model's batch norms, as they were when last remembered.

    Args:
        model: whose statistics are remembered now.
    """

    def __init__(self, model: nn.Module) -> None:
        self.live = [
            buffer
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            for buffer in module.buffers(recurse=False)
        ]
        self.kept = [buffer.clone() for buffer in self.live]

    def remember(self) -> None:
        """Take the statistics of now."""
        if self.live:
            torch._foreach_copy_(self.kept, self.live)

    def put_back(self) -> None:
        """Return to what was last remembered."""
        if self.live:
            torch._foreach_copy_(self.live, self.kept)

    def finite(self) -> bool:
        """Whether the statistics of now are finite."""
        return are_finite([buffer for buffer in self.live if buffer.is_floating_point()])


def are_finite(tensors: list[torch.Tensor]) -> bool:
    """Whether every value of some tensors is finite."""
    if not tensors:
        return True
    largest = [torch.linalg.vector_norm(t, ord=float('inf')) for t in tensors if t.numel()]
    return not largest or bool(torch.stack(largest).isfinite().all())


def _named(optim_wrapper: OptimWrapper | OptimWrapperDict) -> Iterator[tuple[str, OptimWrapper]]:
    if isinstance(optim_wrapper, OptimWrapperDict):
        yield from optim_wrapper.items()
    else:
        yield 'student', optim_wrapper
