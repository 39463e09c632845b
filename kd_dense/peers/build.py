"""Build the peers of a distiller from its config, and hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from torch import Tensor, nn

from ..building import build, kind_of
from ..errors import SetupError
from ..hosts import Host
from ..hosts.checkpoints import STUDENT
from ..registry import PEERS
from ..views.watch import replaced
from .base import TrainsBeside

DEFAULT = 'kd_dense.Peer'


class Peers(nn.ModuleDict):
    """Peers by name."""

    def __getitem__(self, key: str) -> TrainsBeside:
        return cast(TrainsBeside, super().__getitem__(key))

    def all(self) -> list[TrainsBeside]:
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
        configs: arguments of a kind of peer by name, which ``type`` names.
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
        kind = kind_of(PEERS, config, f'peers.{name}', TrainsBeside, default=DEFAULT)
        config = {**config, 'seed': config.get('seed', number)}
        peers[name] = build(kind, config, f'peers.{name}', name=name, student=student)
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
