"""Peers: students that train beside the one that is shipped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .building import did_you_mean, listed
from .errors import SetupError
from .hosts import Host, ModelSource, build_model, isolated_rng, numbered_generator
from .hosts.configs import peer_model
from .own_loss import OwnLosses, check_own_weight, precision, weighted
from .teachers import LiveTeacher
from .teachers.renormalize import Renormalize
from .views import Batch, probe, view_class
from .views.watch import replaced, watch_calls

STUDENT = 'student'
KEYS = ('model', 'changes', 'shares', 'seed', 'weight', 'optim_wrapper')
NAMES = 2**24  # of seeds, so that what is mixed with them stays within 64 bits


class Peer(nn.Module):
    """A student that is not shipped: a host with its own loss and random numbers of its own.

    Args:
        name: what the distiller calls it.
        student: the student's model, whose images it sees.
        model: config of the host: a dict, a path or an ``mmdet::`` name.
        changes: what its config has otherwise, merged into ``model``.
        shares: parts that are the student's own, ``('backbone.conv1', 'backbone.bn1')``: all that
            runs before the two part. They run once a step, their batch norms count once, and they
            train by the losses of both.
        seed: where its random numbers begin, beside the training's seed.
        weight: what its own loss is multiplied by.
        optim_wrapper: what its optimizer has otherwise than the student's.

    Raises:
        SetupError: it wants its images normalised otherwise, a weight that is none, or parts to be
            shared that are not there, differ, or are not all that runs before the two part.
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
        changes: Mapping[str, Any] | None = None,
        shares: Sequence[str] = (),
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
        if not isinstance(theirs, type(student.data_preprocessor)):
            return  # it has none of its own
        if not Renormalize(student.data_preprocessor, theirs).identical:
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
        """The peer without what it shares, with the same parameters under the same names."""
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

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """While inside, a module that several models share runs once for each of its inputs."""
        shared = {id(module): module for peer in self.all() for module in peer.shared()}
        with ExitStack() as stack:
            for module in shared.values():
                stack.enter_context(replaced(module, 'forward', _remembering()))
            yield


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


def _remembering() -> Callable[..., Any]:
    known: list[tuple[Tensor, Any]] = []  # the inputs are held, so that none takes another's place

    def forward(original: Callable[..., Any], given: Tensor, *more: Any) -> Any:
        for seen, output in known:
            if seen is given:
                return output
        output = original(given, *more)
        known.append((given, output))
        return output

    return forward


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


def _apart(sample: BaseDataElement) -> BaseDataElement:
    """A sample that a host may write into without the others seeing it; tensors are shared."""
    fresh = sample.new()
    for key, value in sample.items():
        if isinstance(value, BaseDataElement):
            setattr(fresh, key, value.new())
    return fresh
