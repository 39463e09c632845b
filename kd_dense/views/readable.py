"""The properties of a view that losses read, with what has to agree between two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from torch.profiler import record_function

from ..errors import SetupError

ITSELF = 'itself'


class Read(NamedTuple):
    """One property that a loss reads of both views, where the loss minds less than usual.

    Attributes:
        name: of the property.
        agree: fields of :class:`~kd_dense.views.info.HostInfo` in which both models have to agree
            for this loss, in place of those that the property declares.
    """

    name: str
    agree: tuple[str, ...]


class Readable(cached_property):
    """A property that losses read: computed when first read, under a label for the profiler.

    Attributes:
        agree: fields of :class:`~kd_dense.views.info.HostInfo` in which both models have to agree.
        ahead: which property can be computed before the student has run: its own name, another's,
            or None.
    """

    agree: tuple[str, ...] = ()
    ahead: str | None = ITSELF

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        with record_function(f'kd_dense/{instance.label}.{self.attrname}'):
            return super().__get__(instance, owner)


def readable(agree: Sequence[str] = (), ahead: str | None = ITSELF) -> Callable[..., Readable]:
    """Make a method a property that losses may read.

    Args:
        agree: fields of :class:`~kd_dense.views.info.HostInfo` in which teacher and student have
            to agree for a loss that reads it.
        ahead: which property of a teacher can be computed before the student has run; None for
            what a teacher does not have.
    """

    def decorate(compute: Callable[[Any], Any]) -> Readable:
        found = Readable(compute)
        found.agree = tuple(agree)
        found.ahead = ahead
        return found

    return decorate


class Missing(SetupError, AttributeError):
    """A view is asked for what its kind does not have."""


class Without:
    """In place of a property that a kind of view has not, though the kind that it is of has it.

    Args:
        why: a sentence, with what to do instead.
    """

    def __init__(self, why: str) -> None:
        self.why = why

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        raise Missing(self.why)


def known_reads(view: type) -> list[str]:
    """Names of the properties of a kind of view that losses may read."""
    names = [name for kind in reversed(view.__mro__) for name in vars(kind)]
    return [n for n in dict.fromkeys(names) if isinstance(getattr(view, n, None), Readable)]
