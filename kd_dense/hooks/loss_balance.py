"""How much each loss moves the student, measured in the first steps."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint as activation_checkpoint
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ..distiller import Distiller
from ..errors import SetupError
from ..registry import HOOKS
from ..unlabelled.check import SUFFIX
from .balance import STUDENT, Measure, Row, as_text, find_problems, summarize
from .common import distiller_of, restored_afterwards


@HOOKS.register_module()
class LossBalanceHook(Hook):
    """Report each loss's share of the gradient on the student in the first steps of training.

    Each of these steps is computed once more, aside and before the step itself: random state and
    buffers are put back and gradients taken without storing them, so the training stays the same to
    the bit. In distributed training the numbers are those of the first rank's part of the batch.
    The table goes to the log, the numbers to ``loss_balance.json`` in the work directory.

    Args:
        steps: how many steps to measure; 0 for none.
        begin: first step to measure (for a loss that a schedule switches on later).
        warn_above: share of the summed gradient norms, the student's own included, above which
            a distillation loss is said to drown the others.

    Raises:
        SetupError: a number out of its range.
    """

    priority = 'LOW'  # behind hooks that change what the step computes

    def __init__(self, steps: int = 5, begin: int = 0, warn_above: float = 0.9) -> None:
        if steps < 0 or begin < 0 or not 0 < warn_above <= 1:
            raise SetupError(
                f'LossBalanceHook got steps={steps}, begin={begin}, warn_above={warn_above}; steps '
                'and begin must be 0 or more, warn_above above 0 and at most 1.'
            )
        self.steps = steps
        self.begin = begin
        self.warn_above = warn_above
        self._measured: list[dict[str, Measure]] = []

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Measure one step; report after the last."""
        if not self.begin <= runner.iter < self.begin + self.steps:
            return
        # on every rank: losses count over all ranks together
        self._measured.append(measure(runner, data_batch))
        last = runner.iter + 1 == min(self.begin + self.steps, runner.max_iters)
        if last and is_main_process():
            self._report(runner)

    def _report(self, runner: Runner) -> None:
        losses = distiller_of(runner, 'LossBalanceHook').losses_of_student
        rows = summarize(self._measured, losses)
        warnings = [found.text for found in find_problems(rows, self.warn_above)]
        runner.logger.info(as_text(rows, len(self._measured)))
        for warning in warnings:
            runner.logger.warning(warning)
        report = {
            'steps': len(self._measured),
            'student': _plain(rows.pop(STUDENT)),
            'losses': {name: _plain(row) for name, row in rows.items()},
            'warnings': warnings,
        }
        path = Path(runner.work_dir, 'loss_balance.json')
        path.write_text(json.dumps(report, indent=2, allow_nan=False) + '\n')


def measure(runner: Runner, data_batch: dict[str, Any]) -> dict[str, Measure]:
    """Value and gradient norm of each loss in force on one batch, leaving no trace.

    Args:
        runner: in training.
        data_batch: as the data loader gives it; it is not changed.
    """
    distiller = distiller_of(runner, 'LossBalanceHook')
    return measure_distiller(distiller, data_batch, runner.optim_wrapper)


def measure_distiller(
    distiller: Distiller, data_batch: dict[str, Any], optim_wrapper: OptimWrapper | None = None
) -> dict[str, Measure]:
    """As :func:`measure`, without a runner; of the losses that the student learns by.

    A distillation loss that is not finite is told as it is, though training leaves it out.

    Args:
        distiller: to measure.
        data_batch: as the data loader gives it; it is not changed.
        optim_wrapper: of a training in mixed precision, whose context and scale are used.
    """
    parameters = [p for p in distiller.student.parameters() if p.requires_grad]
    scaler = getattr(optim_wrapper, 'loss_scaler', None)
    scale = float(scaler.get_scale()) if hasattr(scaler, 'get_scale') else 1.0
    with restored_afterwards(distiller), _no_reentry():
        with optim_wrapper.optim_context(distiller) if optim_wrapper else nullcontext():
            # a copy: batch augmentations may write into their input
            data = distiller.data_preprocessor(copy.deepcopy(data_batch), True)
            own, values = distiller.both_losses(**data)
        # what the peers learn by has no gradient on the student
        own = {n: v for n, v in own.items() if n.split('.')[0] not in distiller.peers}
        totals = {STUDENT: distiller.parse_losses(own)[0]} if own else {}
        losses = distiller.losses_of_student
        totals |= {name: values[name] for name, loss in losses.items() if loss.active}
        for name in totals.keys() & losses.keys():
            totals[name] = totals[name] + values.get(name + SUFFIX, 0)
        return {
            name: Measure(float(total.detach()), gradient_norm(total, parameters, scale))
            for name, total in totals.items()
        }


def gradient_norm(loss: Tensor, parameters: Sequence[nn.Parameter], scale: float = 1.0) -> float:
    """Euclidean norm of a loss's gradient on all parameters; 0 where there is none.

    Args:
        loss: a scalar; its graph is kept.
        parameters: what to take the gradient on; their ``grad`` is not touched.
        scale: what half-precision training multiplies losses by against underflow. Where that
            overflows, as it may in the first steps, the norm is taken without.
    """
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss * scale, parameters, retain_graph=True, allow_unused=True)
    norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients if g is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(norms))) / scale if norms else 0.0
    return norm if math.isfinite(norm) or scale == 1 else gradient_norm(loss, parameters)


@contextmanager
def _no_reentry() -> Iterator[None]:
    """Checkpoint activations the way that lets gradients be taken aside; mmdet takes the other."""
    original = activation_checkpoint.checkpoint

    def checkpoint(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, 'use_reentrant': False})

    activation_checkpoint.checkpoint = checkpoint
    try:
        yield
    finally:
        activation_checkpoint.checkpoint = original


def _plain(row: Row) -> dict[str, float | str | None]:
    """A row for JSON, which knows no infinities: those become text."""
    return {
        key: value if value is None or math.isfinite(value) else str(value)
        for key, value in row._asdict().items()
    }
