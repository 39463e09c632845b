"""Watch the methods of a host while its own code runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def watch_calls(owner: Any, method: str, note: Callable[..., None]) -> Iterator[None]:
    """While inside, call ``note(inputs, output)`` after each ``owner.method(*inputs)``.

    The host's code runs unchanged; the note is removed on the way out, also after an error.
    A module's ``forward`` is watched through a forward hook, so that other hooks keep working.
    """
    if method == 'forward' and isinstance(owner, nn.Module):
        handle = owner.register_forward_hook(lambda _, inputs, output: note(inputs, output))
        try:
            yield
        finally:
            handle.remove()
        return
    original = getattr(owner, method)
    watched = vars(owner).get(method)  # by something else already

    def noted(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        note(args, output)
        return output

    object.__setattr__(owner, method, noted)
    try:
        yield
    finally:
        object.__delattr__(owner, method)
        if watched is not None:
            object.__setattr__(owner, method, watched)


@contextmanager
def replaced(owner: Any, method: str, instead: Callable[..., Any]) -> Iterator[None]:
    """While inside, ``owner.method(*args)`` is ``instead(original, *args)``."""
    original = getattr(owner, method)
    watched = vars(owner).get(method)
    object.__setattr__(owner, method, lambda *args, **kwargs: instead(original, *args, **kwargs))
    try:
        yield
    finally:
        object.__delattr__(owner, method)
        if watched is not None:
            object.__setattr__(owner, method, watched)
