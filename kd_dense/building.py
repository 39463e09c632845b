"""Build what a config names, or say in a sentence what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import Parameter, isclass, signature
from typing import Any

from mmengine.registry import Registry

from .errors import SetupError

NOUNS = {
    'DistillationLoss': 'distillation loss',
    'Teacher': 'teacher',
    'TrainsBeside': 'kind of peer',
}


def kind_of(registry: Registry, config: Any, where: str, base: type, default: str = '') -> type:
    """The class that a config names by its ``type``.

    Args:
        registry: where it is registered.
        config: arguments and ``type``.
        where: the part of the config, for messages: ``'losses.ld'``.
        base: what it has to be a kind of.
        default: the type where none is named.

    Raises:
        SetupError: no dict, no type, an unknown one, or one of another kind.
    """
    names = sorted(name for name, kind in registry.module_dict.items() if is_a(kind, base))
    known = [f'{registry.scope}.{name}' for name in names]
    if not isinstance(config, Mapping):
        raise SetupError(
            f'{where} is {config!r}; it has to be a dict with `type`, one of {listed(known)}.'
        )
    name = config.get('type', default)
    if not name:
        raise SetupError(
            f'{where} has no `type`: found {dict(config)}. A name that is misspelt in '
            f'--cfg-options makes a new entry. Types are {listed(known)}.'
        )
    kind = name if isclass(name) else registry.get(str(name))
    if kind is None:
        near = did_you_mean(str(name).split('.')[-1], names)
        raise SetupError(
            f'{where}: there is no type {name!r}.{near} Types are {listed(known)}; '
            'one of your own is found once `custom_imports` names its module.'
        )
    if not is_a(kind, base):
        raise SetupError(
            f'{where} is a {kind.__name__}, which is no {NOUNS[base.__name__]}. Types are '
            f'{listed(known)}.'
        )
    return kind


def build(kind: type, config: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Build a class from the arguments in its config.

    Args:
        kind: see :func:`kind_of`.
        config: its arguments; ``type`` is left out.
        where: the part of the config, for messages.
        given: arguments that no config gives.

    Raises:
        SetupError: an unknown argument, or a needed one that is not there.
    """
    arguments = {key: value for key, value in config.items() if key != 'type'}
    parameters = [p for p in signature(kind).parameters.values() if p.name not in given]
    if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        names = [p.name for p in parameters]
        needed = [p.name for p in parameters if p.default is p.empty]
        unknown = [key for key in arguments if key not in names]
        missing = [name for name in needed if name not in arguments]
        if unknown or missing:
            near = did_you_mean(unknown[0], names) if unknown else ''
            raise SetupError(
                f'{where} ({kind.__name__}) is configured by {listed(names)}'
                + (f', of which it needs {listed(needed)}' if needed else '')
                + f'; found {listed(sorted(arguments)) or "nothing"}.{near}'
            )
    return kind(**given, **arguments)


def is_a(kind: Any, base: type) -> bool:
    """Whether something is a class of a kind."""
    return isclass(kind) and issubclass(kind, base)


def did_you_mean(name: str, known: list[str]) -> str:
    """A sentence that names the known name closest to one; empty where none is close."""
    close = get_close_matches(name, known, n=1)
    return f' Did you mean {close[0]!r}?' if close else ''


def listed(names: list[str]) -> str:
    """Names in backticks, with commas."""
    return ', '.join(f'`{name}`' for name in names)
