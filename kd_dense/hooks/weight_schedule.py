"""Weights of distillation losses that change during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..errors import SetupError
from ..registry import HOOKS
from .common import distiller_of

ALL = '*'
KEYS = {
    'linear': {'begin', 'end', 'start_factor', 'end_factor'},
    'cosine': {'begin', 'end', 'start_factor', 'end_factor'},
    'constant': {'begin', 'end', 'factor'},
    'stop': {'begin'},
}
NEEDED = {'linear': ('end',), 'cosine': ('end',), 'constant': (), 'stop': ('begin',)}
Phase = Mapping[str, Any]


@HOOKS.register_module()
class WeightScheduleHook(Hook):
    """Set the factor that each loss's weight is multiplied by, before each iteration.

    The factor follows from the iteration alone, so resuming needs no state. From a ``'stop'`` on it
    is exactly 0: the loss is not computed, and where all losses stop the teacher does not run.

    Phases, in time order, each with ``begin`` (default 0):

    - ``dict(kind='linear', begin=, end=, start_factor=0.0, end_factor=1.0)``, a straight ramp;
    - ``dict(kind='cosine', ...)``, the same along half a cosine;
    - ``dict(kind='constant', begin=, end=, factor=1.0)``, ``end`` may be left out;
    - ``dict(kind='stop', begin=)``.

    Before its first phase a loss has the factor which that phase starts with (1 before a stop);
    between and after phases it keeps the last one.

    Args:
        schedules: phases by name of the loss; ``'*'`` stands for all losses not named.
        by_epoch: whether ``begin`` and ``end`` count epochs, fractions included, or iterations.
        peers: phases by name of a peer, for the weight of its own loss.

    Raises:
        SetupError: nothing to schedule, an unknown kind, key, loss or peer, ``begin`` not before
            ``end``, or phases that overlap.
    """

    priority = 'ABOVE_NORMAL'  # before hooks that look at the losses

    def __init__(
        self,
        schedules: Mapping[str, Phase | Sequence[Phase]] | None = None,
        by_epoch: bool = False,
        peers: Mapping[str, Phase | Sequence[Phase]] | None = None,
    ) -> None:
        if schedules is None and peers is None:
            raise SetupError(
                'A WeightScheduleHook without `schedules` schedules nothing: give it phases by '
                'name of the losses, or `peers`.'
            )
        self.schedules, self.peers = (
            {
                name: [phases] if isinstance(phases, Mapping) else list(phases)
                for name, phases in (found or {}).items()
            }
            for found in (schedules, peers)
        )
        for name, phases in [*self.schedules.items(), *self.peers.items()]:
            check_phases(name, phases)
        self.by_epoch = by_epoch

    def before_run(self, runner: Runner) -> None:
        """Check the names of the losses and peers.

        Raises:
            SetupError: there is no such loss or peer.
        """
        distiller = distiller_of(runner, 'WeightScheduleHook')
        for part, named, known in (
            ('schedules', self.schedules, list(distiller.losses)),
            ('peers', self.peers, list(distiller.peers)),
        ):
            unknown = [name for name in named if name not in (ALL, *known)]
            if unknown:
                what = 'losses' if part == 'schedules' else 'peers'
                raise SetupError(
                    f'{part} names {", ".join(map(repr, unknown))}, which is none of the {what}; '
                    f"choose from {', '.join(map(repr, known)) or 'none'}, or '*' for all."
                )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Set and log the factors of this iteration."""
        now = runner.iter / len(runner.train_dataloader) if self.by_epoch else runner.iter
        distiller = distiller_of(runner, 'WeightScheduleHook')
        scheduled: Sequence[tuple[str, Mapping[str, Any], Any]] = (
            ('kd_factor', self.schedules, distiller.losses.items()),
            ('peer_factor', self.peers, distiller.peers.items()),
        )
        for scalar, schedules, parts in scheduled:
            for name, part in parts:
                phases = schedules.get(name, schedules.get(ALL))
                if phases is not None:
                    part.factor = factor_at(phases, now)
                    runner.message_hub.update_scalar(f'train/{scalar}/{name}', part.factor)


def factor_at(phases: Sequence[Phase], now: float) -> float:
    """The factor that checked phases give at a time.

    Args:
        phases: see :class:`WeightScheduleHook`.
        now: in iterations or epochs, as the phases.
    """
    if not phases:
        return 1.0
    begun = [phase for phase in phases if phase.get('begin', 0) <= now]
    phase = begun[-1] if begun else phases[0]
    if phase['kind'] == 'stop':
        return 0.0 if begun else 1.0
    if phase['kind'] == 'constant':
        return float(phase.get('factor', 1.0))
    begin, end = phase.get('begin', 0), phase['end']
    share = min(max((now - begin) / (end - begin), 0.0), 1.0)
    if phase['kind'] == 'cosine':
        share = (1 - math.cos(math.pi * share)) / 2
    start, stop = phase.get('start_factor', 0.0), phase.get('end_factor', 1.0)
    return float(start * (1 - share) + stop * share)


def check_phases(name: str, phases: Sequence[Phase]) -> None:
    """Check the phases of one loss.

    Raises:
        SetupError: see :class:`WeightScheduleHook`.
    """
    free = -math.inf  # from when on no phase is in force
    for index, phase in enumerate(phases):
        where = f'schedules.{name}[{index}]'
        kind = phase.get('kind')
        if kind not in KEYS:
            raise SetupError(
                f'{where}: kind is {kind!r}; choose one of {", ".join(map(repr, KEYS))}.'
            )
        unknown = sorted(set(phase) - KEYS[kind] - {'kind'})
        missing = [key for key in NEEDED[kind] if key not in phase]
        if unknown or missing:
            raise SetupError(
                f'{where}: unknown keys {unknown}, missing keys {missing}; a {kind!r} phase takes '
                f'{", ".join(sorted(KEYS[kind]))}.'
            )
        begin, end = phase.get('begin', 0), phase.get('end')
        if end is not None and begin >= end:
            raise SetupError(f'{where}: begin is {begin} and end {end}; begin must come first.')
        if begin < free:
            raise SetupError(
                f'{where}: the phase begins at {begin}, but the one before it lasts until '
                f'{"the end of training" if free == math.inf else free}. Phases go in time order '
                'and must not overlap.'
            )
        free = math.inf if kind == 'stop' else begin + 1e-9 if end is None else end
