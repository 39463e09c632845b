"""A student beside the one that is shipped: of its own, or with parts that both share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from mmengine.model import BaseDataPreprocessor
from torch import nn

from ..errors import SetupError
from ..hosts import Host, ModelSource, build_model
from ..hosts.configs import peer_model
from ..own_loss import OwnLosses
from ..registry import PEERS
from ..teachers import LiveTeacher
from ..teachers.renormalize import Renormalize, preprocessing_of
from ..views import Batch, probe, view_class
from ..views.watch import watch_calls
from .base import TrainsBeside


@PEERS.register_module()
class Peer(TrainsBeside):
    """A student that is not shipped.

    Args:
        name: what the distiller calls it.
        student: the student's model, whose images it sees.
        model: config of the host: a dict, a path or an ``mmdet::`` name.
        changes: what its config has otherwise, merged into ``model``.
        shares: parts that are the student's own, ``('backbone.conv1', 'backbone.bn1')``: all that
            runs before the two part. They run once a step, their batch norms count once, and they
            train by the losses of both.
        seed, weight, optim_wrapper: see :class:`~kd_dense.peers.base.TrainsBeside`.

    Raises:
        SetupError: it wants its images normalised otherwise, a weight that is none, or parts to be
            shared that are not there, differ, or are not all that runs before the two part.
    """

    def __init__(
        self,
        name: str,
        student: Host,
        model: ModelSource,
        seed: int = 1,
        weight: float = 1.0,
        optim_wrapper: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        shares: Sequence[str] = (),
    ) -> None:
        super().__init__(name, seed, weight, optim_wrapper)
        config = peer_model(dict(model=model, changes=changes))
        with self._own_randomness():
            self.model: Host = build_model(config)
        self._check_images(student)
        self.shares = tuple(shares)
        if self.shares:
            self._share(student)
        self.seen = LiveTeacher(self.model, name)

    def _check_images(self, student: Host) -> None:
        theirs = self.model.data_preprocessor
        if type(theirs) is BaseDataPreprocessor:
            return  # it has none of its own
        known = preprocessing_of(theirs) is not None
        if not (known and Renormalize(student.data_preprocessor, theirs).identical):
            raise SetupError(
                f'peers.{self.name} wants its images normalised otherwise than the student, and '
                "all students see the same ones. Give its model the student's data_preprocessor."
            )

    def _share(self, student: Host) -> None:
        for name in self.shares:
            try:
                theirs, mine = student.get_submodule(name), self.model.get_submodule(name)
            except AttributeError as error:
                raise SetupError(f'peers.{self.name}.shares names {name!r}: {error}.') from None
            shapes = [[v.shape for v in part.state_dict().values()] for part in (theirs, mine)]
            if shapes[0] != shapes[1]:
                raise SetupError(
                    f'peers.{self.name}.shares names {name!r}, which has other shapes in the '
                    'student. Leave it out, or take `changes` back that touch it.'
                )
            owner, _, child = name.rpartition('.')
            setattr(self.model.get_submodule(owner), child, theirs)
        if missing := _not_shared(student, self.shares):
            raise SetupError(
                f'peers.{self.name}.shares has to hold all that runs before the two part, what has '
                f'no weights too: {", ".join(map(repr, missing))} of the student runs before '
                f'{self.shares[-1]!r} and is not named.'
            )

    def shared(self) -> list[nn.Module]:
        """The student's modules that are its own too."""
        return [self.model.get_submodule(name) for name in self.shares]

    def apart(self) -> nn.Module:
        """The peer without what it shares."""
        return _without(self, {id(module) for module in self.shared()})

    def init_weights(self) -> None:
        """Initialise the model, apart from the student's random numbers and weights."""
        kept = [copy.deepcopy(module.state_dict()) for module in self.shared()]
        with self._own_randomness():
            self.model.init_weights()
        for module, state in zip(self.shared(), kept, strict=True):
            module.load_state_dict(state)

    def train_on(self, batch: Batch) -> OwnLosses:
        """The model's own losses of a batch, as they count, by their names.

        Args:
            batch: the student's.
        """
        return self._train(self.model, batch)


def _not_shared(student: Host, shares: Sequence[str]) -> list[str]:
    """Children beside the shared ones that run before the last of these."""
    owners = dict.fromkeys(name.rpartition('.')[0] for name in shares)
    missing = []
    for owner in owners:
        order = [f'{owner}.{child}'.lstrip('.') for child in _order(student, owner)]
        last = max((order.index(name) for name in shares if name in order), default=-1)
        missing += [name for name in order[: last + 1] if name not in shares]
    return missing


def _order(student: Host, owner: str) -> list[str]:
    """The children of a part, in the order in which they run."""
    ran: dict[str, None] = {}
    with ExitStack() as stack:
        for child, module in student.get_submodule(owner).named_children():
            note = partial(ran.setdefault, child)
            stack.enter_context(watch_calls(module, 'forward', lambda *_, note=note: note()))
        probe(student, view_class(student))
    return list(ran)


def _without(module: nn.Module, left_out: set[int]) -> nn.Module:
    """A shallow copy of a module without some that are inside of it."""
    shallow = copy.copy(module)
    children = module._modules.items()
    shallow._modules = {
        name: child and _without(child, left_out)
        for name, child in children
        if id(child) not in left_out
    }
    return shallow
