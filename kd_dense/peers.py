"""Peers: students that train beside the one that is shipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .building import did_you_mean, listed
from .errors import SetupError
from .hosts import (
    Host,
    ModelSource,
    build_model,
    isolated_rng,
    numbered_generator,
    read_model_config,
)
from .own_loss import OwnLosses, check_own_weight, precision, weighted
from .teachers import LiveTeacher
from .teachers.renormalize import Renormalize
from .views import Batch, view_class

STUDENT = 'student'
KEYS = ('model', 'seed', 'weight', 'optim_wrapper')
NAMES = 2**24  # of seeds, so that what is mixed with them stays within 64 bits


class Peer(nn.Module):
    """A student that is not shipped: a host with its own loss and random numbers of its own.

    Args:
        name: what the distiller calls it.
        student: the student's model, whose images it sees.
        model: config of the host: a dict, a path or an ``mmdet::`` name.
        seed: where its random numbers begin, beside the training's seed.
        weight: what its own loss is multiplied by.
        optim_wrapper: what its optimizer has otherwise than the student's.

    Raises:
        SetupError: it wants its images normalised otherwise, or a weight that is none.
    """

    origin: Tensor
    drawn: Tensor

    def __init__(
        self,
        name: str,
        student: Host,
        model: ModelSource,
        seed: int,
        weight: float = 1.0,
        optim_wrapper: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_own_weight(f'peers.{name}.weight', weight)
        self.name = name
        self.weight = weight
        self.optim_wrapper = dict(optim_wrapper or {})
        # both are saved: a resumed training draws the numbers that it would have drawn
        origin = (torch.initial_seed() + seed) % NAMES
        self.register_buffer('origin', torch.tensor(origin), persistent=True)
        self.register_buffer('drawn', torch.tensor(0), persistent=True)
        config = read_model_config(model, 'student')
        with self._own_randomness():
            self.model: Host = build_model(config)
        self._check_images(student)
        self.seen = LiveTeacher(self.model, name)

    def _check_images(self, student: Host) -> None:
        theirs = self.model.data_preprocessor
        if not isinstance(theirs, type(student.data_preprocessor)):
            return  # it has none of its own
        if not Renormalize(student.data_preprocessor, theirs).identical:
            raise SetupError(
                f'peers.{self.name} wants its images normalised otherwise than the student, and '
                "all students see the same ones. Give its model the student's data_preprocessor."
            )

    def init_weights(self) -> None:
        """Initialise the model, apart from the student's random numbers."""
        with self._own_randomness():
            self.model.init_weights()

    def train_on(self, batch: Batch) -> OwnLosses:
        """The model's own losses of a batch, as they count, by their names.

        Args:
            batch: the student's.
        """
        context = precision(batch.images.device.type)
        batch = Batch(batch.images, [_apart(sample) for sample in batch.samples])
        view = view_class(self.model)(self.model, batch, context)
        view.own_weight, view.label = self.weight, self.name
        with self._own_randomness(), view.recording():
            losses = self.model(batch.images, batch.samples, mode='loss')
        self.seen.trained_by(view, context)
        losses = weighted(losses, self.weight)
        view.own_losses = dict(losses)
        return losses

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """The next random numbers of its own; the student's stay as they are."""
        generator = numbered_generator(int(self.origin), int(self.drawn))
        self.drawn += 1
        with isolated_rng(generator.initial_seed()):
            yield


class Peers(nn.ModuleDict):
    """Peers by name."""

    def __getitem__(self, key: str) -> Peer:
        return cast(Peer, super().__getitem__(key))

    def all(self) -> list[Peer]:
        """The peers, in the config's order."""
        return [self[name] for name in self]


def build_peers(
    configs: Mapping[str, Mapping[str, Any]], student: Host, taken: Sequence[str]
) -> Peers:
    """Build the peers of a distiller.

    Args:
        configs: arguments of :class:`Peer` by name.
        student: the student's model.
        taken: names of others.

    Raises:
        SetupError: an unknown key, no model, or a name that is taken.
    """
    peers = Peers()
    for number, (name, config) in enumerate(configs.items(), 1):
        if name in (STUDENT, *taken):
            raise SetupError(f'peers.{name}: there is a {name} already; choose another name.')
        if not isinstance(config, Mapping) or 'model' not in config:
            raise SetupError(
                f'peers.{name} is {config!r}; it is `dict(model=CONFIG)`, a student that trains '
                'beside the shipped one.'
            )
        for key in config:
            if key not in KEYS:
                raise SetupError(
                    f'peers.{name}: nothing reads {key!r}.{did_you_mean(key, list(KEYS))} It '
                    f'takes {listed(list(KEYS))}.'
                )
        peers[name] = Peer(name, student, **{'seed': number, **config})
    return peers


def _apart(sample: BaseDataElement) -> BaseDataElement:
    """A sample that a host may write into without the others seeing it; tensors are shared."""
    fresh = sample.new()
    for key, value in sample.items():
        if isinstance(value, BaseDataElement):
            setattr(fresh, key, value.new())
    return fresh
