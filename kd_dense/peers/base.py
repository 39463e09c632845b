"""What every model has that trains beside the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..hosts import Host, isolated_rng, numbered_generator
from ..own_loss import OwnLosses, check_own_weight, precision, weighted
from ..teachers import LiveTeacher
from ..views import Batch, view_class

SEEDS = 2**24  # so that what is mixed with one stays within 64 bits


class TrainsBeside(nn.Module):
    """A model with its own loss and random numbers of its own, which is not shipped.

    Args:
        name: what the distiller calls it.
        seed: where its random numbers begin, beside the training's seed.
        weight: what its own loss is multiplied by.
        optim_wrapper: what its optimizer has otherwise than the student's.

    Attributes:
        seen: it, as others look at it.
        factor: share of the weight in force now, set by a weight schedule.

    Raises:
        SetupError: a weight that is none.
    """

    origin: Tensor
    drawn: Tensor
    seen: LiveTeacher

    def __init__(
        self,
        name: str,
        seed: int,
        weight: float = 1.0,
        optim_wrapper: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_own_weight(f'peers.{name}.weight', weight)
        self.name = name
        self.weight = weight
        self.factor = 1.0
        self.optim_wrapper = dict(optim_wrapper or {})
        # both are saved: a resumed training draws the numbers that it would have drawn
        origin = (torch.initial_seed() + seed) % SEEDS
        self.register_buffer('origin', torch.tensor(origin), persistent=True)
        self.register_buffer('drawn', torch.tensor(0), persistent=True)

    def init_weights(self) -> None:
        """Initialise it, apart from the student's random numbers and weights."""
        raise NotImplementedError

    def shared(self) -> list[nn.Module]:
        """The student's modules that are its own too."""
        return []

    def apart(self) -> nn.Module:
        """What its optimizer holds, under the names that its parameters have."""
        return self

    def train_on(self, batch: Batch) -> OwnLosses:
        """Its own losses of a batch, as they count, by their names.

        Args:
            batch: the student's.
        """
        raise NotImplementedError

    def _train(self, model: Host, batch: Batch) -> OwnLosses:
        """The own losses of a model, noted for who looks at it."""
        context = precision(batch.images.device.type)
        batch = Batch(batch.images, [_apart(sample) for sample in batch.samples])
        view = view_class(model)(model, batch, context)
        scale = self.weight * self.factor
        view.own_weight, view.label = scale, self.name
        with self._own_randomness(), view.recording():
            losses = self._run(model, batch)
        self.seen.trained_by(view, context)
        losses = weighted(losses, scale)
        view.own_losses = dict(losses)
        return losses

    def _run(self, model: Host, batch: Batch) -> OwnLosses:
        return model(batch.images, batch.samples, mode='loss')

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """The next random numbers of its own; the student's stay as they are."""
        generator = numbered_generator(int(self.origin), int(self.drawn))
        self.drawn += 1
        with isolated_rng(generator.initial_seed()):
            yield


def _apart(sample: BaseDataElement) -> BaseDataElement:
    """A sample that a host may write into without the others seeing it; tensors are shared."""
    fresh = sample.new()
    for key, value in sample.items():
        if isinstance(value, BaseDataElement):
            setattr(fresh, key, value.new())
    return fresh
