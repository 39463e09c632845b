"""The student as the corner of a wider network: network augmentation (NetAug)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host, ModelSource, build_model, isolated_rng, read_model_config
from ..hosts.configs import peer_model
from ..own_loss import OwnLosses
from ..registry import PEERS
from ..teachers import LiveTeacher
from ..views import Batch, view_class
from ..views.view import at_rest
from ..views.watch import watch_calls
from .base import SEEDS, TrainsBeside

TIMES = 'x'  # in `changes`: the student's own number, times the width
PICTURE = 64  # pixels of the one that tells whether the student is contained
CLOSE = 1e-4  # of the largest value
DOT = '/'  # in names of parameters, where a dictionary takes no dot


@PEERS.register_module()
class Wider(TrainsBeside):
    """A wider network in whose weights the student's are a corner, trained beside it.

    In each step one width is drawn, a network of that width is put together of the student's own
    weights and of extra ones, and has the host's own loss: the student gets more gradient than its
    own capacity gives it. It helps networks that under-fit. Statistics of batch norms are not
    shared, so the student's are those of its own pass; extra weights are left behind.

    Source: Cai, Gan, Lin, Han, "Network augmentation for tiny deep learning", ICLR 2022, arXiv
    2110.08890, of classifiers. There each block draws its own width, batch norms are shared and
    estimated anew before each test, and channels are sorted; here all blocks have one width and
    none of that is needed.

    Args:
        name: what the distiller calls it.
        student: the student's model.
        model: the student's config again.
        changes: what is wider: ``dict(backbone=dict(base_channels='x'))``, and what reads it;
            ``'x'`` is the student's own number (or each of a list), times the width.
        widths: that are drawn from, each above 1.
        pieces: of layers that read a concatenation, how many of their input channels each piece has
            in the student: ``{'decode_head.bottleneck.conv': (128, 8, 8, 8, 8)}``; the first piece
            is the one that becomes wider.
        seed, weight, optim_wrapper: see :class:`~kd_dense.peers.base.TrainsBeside`.

    Raises:
        SetupError: no widths, nothing that is wider, or a network that does not contain the
            student; the message names the layer from which on it does not.
    """

    def __init__(
        self,
        name: str,
        student: Host,
        model: ModelSource,
        changes: Mapping[str, Any] | None = None,
        widths: Sequence[float] = (1.5, 2.0, 3.0),
        pieces: Mapping[str, Sequence[int]] | None = None,
        seed: int = 1,
        weight: float = 1.0,
        optim_wrapper: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, seed, weight, optim_wrapper)
        self.widths = tuple(widths)
        self.pieces = {key: tuple(value) for key, value in (pieces or {}).items()}
        if not self.widths or min(self.widths) <= 1:
            raise SetupError(f'peers.{name}.widths is {widths!r}; they are numbers above 1.')
        if TIMES not in str(changes):
            raise SetupError(
                f'peers.{name}.changes makes nothing wider; write {TIMES!r} for what is to be: '
                f"dict(backbone=dict(base_channels='{TIMES}'), neck=dict(in_channels='{TIMES}'))."
            )
        base = read_model_config(model, 'student')
        self._configs = [
            peer_model(dict(model=base, changes=filled(changes, base, width, f'peers.{name}')))
            for width in sorted(self.widths)
        ]
        with self._own_randomness():
            # in no module tree: their own weights are never used
            self._built = [build_model(config).requires_grad_(False) for config in self._configs]
        self._student = [student]
        self._known: dict[Any, tuple[Tensor, ...]] = {}
        own = dict(student.named_parameters())
        shapes = {n: p.shape for n, p in self.largest.named_parameters()}
        if set(shapes) != set(own):
            differing = sorted(set(shapes) ^ set(own))
            raise SetupError(
                f'peers.{name}: a wider network has the same layers as the student; these are in '
                f'one of the two alone: {", ".join(differing[:3])}.'
            )
        self.extras = nn.ParameterDict({
            n.replace('.', DOT): nn.Parameter(torch.zeros(shape))
            for n, shape in shapes.items()
            if shape != own[n].shape
        })  # fmt: skip
        self.seen = LiveTeacher(self.largest, name)
        for built, width in zip(self._built, sorted(self.widths), strict=True):
            self._check_contains(student, built, width)

    @property
    def largest(self) -> Host:
        """The network of the largest width, without weights of its own."""
        return self._built[-1]

    def init_weights(self) -> None:
        """Initialise the extra weights as a network of the largest width does."""
        with self._own_randomness():
            fresh = build_model(copy.deepcopy(self._configs[-1]))
            fresh.init_weights()
        found = dict(fresh.named_parameters())
        with torch.no_grad():
            for name, extra in self.extras.items():
                extra.copy_(found[name.replace(DOT, '.')])

    def train_on(self, batch: Batch) -> OwnLosses:
        """The own losses of a network of a width that is drawn; none once the weight is 0."""
        if not self.weight * self.factor:
            rest = torch.stack([extra.sum() for extra in self.extras.values()]).sum() * 0
            return dict(loss_rest=rest)
        # the same on all ranks, and again in a resumed training
        mixed = (int(self.origin) * SEEDS + int(self.drawn)) % 2**63
        draw = torch.Generator().manual_seed(mixed)
        built = self._built[int(torch.randint(len(self._built), (), generator=draw))]
        built.to(batch.images.device)
        built.train()
        return self._train(built, batch)

    def _run(self, model: Host, batch: Batch) -> OwnLosses:
        weights = self.weights(model)
        options = dict(mode='loss')
        return torch.func.functional_call(model, weights, (batch.images, batch.samples), options)

    def weights(self, model: Host) -> dict[str, Tensor]:
        """All weights of a network by name: the student's, and extra ones round them.

        Args:
            model: one of the widths.
        """
        own = dict(self._student[0].named_parameters())
        found = {}
        for name, parameter in model.named_parameters():
            mine = own[name]
            if mine.shape == parameter.shape:
                found[name] = mine
                continue
            extra = self.extras[name.replace('.', DOT)]
            part = extra[tuple(slice(size) for size in parameter.shape)]
            key = name, parameter.shape, mine.device
            if key not in self._known:
                self._known[key] = self._places(name, mine, parameter.shape)
            found[name] = part.index_put(self._known[key], mine)
        return found

    def _places(self, name: str, mine: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
        """Where the student's channels stand among the wider ones, for its first two dimensions."""
        device = mine.device
        rows = torch.arange(len(mine), device=device)
        if mine.dim() == 1:
            return (rows,)
        pieces = self.pieces.get(name.rpartition('.')[0], (mine.shape[1],))
        wider = shape[1] - sum(pieces[1:])
        starts = [0, *[wider + sum(pieces[1:i]) for i in range(1, len(pieces))]]
        columns = torch.cat([
            torch.arange(start, start + size, device=device)
            for start, size in zip(starts, pieces, strict=True)
        ])  # fmt: skip
        return rows[:, None], columns[None, :]

    def _check_contains(self, student: Host, built: Host, width: float) -> None:
        """Check that with extra weights of 0 a wider network computes what the student does."""
        with torch.no_grad(), isolated_rng(seed=0):
            image = torch.rand(1, 3, PICTURE, PICTURE)
            for name, value in self.weights(built).items():
                built.get_parameter(name).copy_(value)
            mine, theirs = outputs(student, image), outputs(built, image)
        for name, value in mine.items():
            other = theirs.get(name)
            if other is None or other.dim() != value.dim():
                continue
            corner = other[tuple(slice(size) for size in value.shape)]
            apart = (corner - value).abs().max() if corner.shape == value.shape else torch.inf
            concatenated = name in self.pieces
            if apart > CLOSE * max(float(value.abs().max()), 1.0) and not concatenated:
                raise SetupError(
                    f'peers.{self.name}: at {width:g} times the width the wider network does not '
                    f'contain the student from {name!r} on: with extra weights of 0 it computes '
                    'something else. A layer that reads a concatenation needs its `pieces`; a '
                    'group norm, or another layer that mixes channels, cannot be wider.'
                )


def filled(changes: Any, own: Any, width: float, where: str) -> Any:
    """Changes with numbers in the place of ``'x'``.

    Args:
        changes: of a wider network, or a part of them.
        own: the same part of the student's config.
        width: what its numbers are multiplied by.
        where: for messages.

    Raises:
        SetupError: the student's config has no such number.
    """
    if isinstance(changes, Mapping):
        known = own if isinstance(own, Mapping) else {}
        return ConfigDict({
            key: filled(value, known.get(key), width, f'{where}.{key}')
            for key, value in changes.items()
        })  # fmt: skip
    if changes != TIMES:
        return changes
    numbers = list(own) if isinstance(own, list | tuple) else [own]
    if not numbers or not all(isinstance(number, int) for number in numbers):
        raise SetupError(f'{where} is {TIMES!r}, and the student has {own!r} there: no number.')
    wide = [round(number * width) for number in numbers]
    return wide if isinstance(own, list | tuple) else wide[0]


def outputs(model: Host, image: Tensor) -> dict[str, Tensor]:
    """What each layer and the whole model compute of a picture, in evaluation, in order.

    Args:
        model: a host; left as it was.
        image: (1, 3, H, W).
    """
    found: dict[str, Tensor] = {}

    def note(name: str, value: Any) -> None:
        if isinstance(value, Tensor):  # a copy: activations may write into it
            found.setdefault(name, value.detach().clone())

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and not list(module.children()):
                watched = watch_calls(module, 'forward', lambda _, out, n=name: note(n, out))
                stack.enter_context(watched)
        view = view_class(model)(model, Batch(image, []), partial(at_rest, model))
        for index, value in enumerate(view.outputs()):
            note(f'output {index}', value)
    return found
