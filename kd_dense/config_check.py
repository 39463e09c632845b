"""Look at a whole config before anything is built from it: names that nobody reads, values of none.

MMEngine passes over a top-level name that it does not know.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, OPTIMIZERS
from mmengine.runner import Runner

from .building import did_you_mean
from .errors import SetupError

READ_BY_RUNNER = frozenset(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
READ_BY_OTHERS = frozenset(
    [
        *('auto_scale_lr', 'custom_imports', 'runner_type', 'data_help', 'dataset_type'),
        *('test_pipeline', 'tta_model', 'tta_pipeline', 'model_wrapper_cfg'),
    ]
)
ALIKE = 0.85  # no config of mmdet and mmseg has a variable so much like a name that is read
SHORT = 6  # letters: `models` is no misspelt `model`
LOOPS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}


def check_names(config: Config, name: str) -> None:
    """Check that a config holds a model, and no name that is almost one that is read.

    Args:
        config: of any tool.
        name: of its file, for messages.

    Raises:
        SetupError: it does not.
    """
    model = config.get('model')
    if not isinstance(model, Mapping) or 'type' not in model:
        found = f'it holds {_some(config)}' if len(config) else 'it is empty'
        raise SetupError(
            f'{name} has no `model` with a `type`: {found}. Name the config of a training.'
        )
    scope = config.get('default_scope')
    if scope is not None and scope not in MODELS.children and find_spec(str(scope)) is None:
        raise SetupError(f'{name}: default_scope is {scope!r}, and there is no such package.')
    level = config.get('log_level')
    if isinstance(level, str) and level not in logging.getLevelNamesMapping():
        raise SetupError(f'{name}: log_level is {level!r}; it is INFO, WARNING or the like.')
    for key in config:
        if near := misspelt(key):
            raise SetupError(
                f'{name}: nothing reads `{key}`; did you mean `{near}`? A variable of your own '
                'needs a name less like it.'
            )


def check_options(config: Config, keys: Iterable[str]) -> list[str]:
    """Check that the first parts of some --cfg-options are names of the config.

    Args:
        config: before they are brought in.
        keys: dotted.

    Returns:
        what to warn of: variables of the file, which went into other values when it was read.

    Raises:
        SetupError: nothing reads one.
    """
    said = []
    for key in keys:
        first = key.split('.')[0]
        if first in READ_BY_RUNNER | READ_BY_OTHERS:
            continue
        if first in config:
            said.append(
                f'--cfg-options {key}: `{first}` is a variable of the config; what it was used for '
                'does not change with it. Name the keys that it went into.'
            )
            continue
        near = misspelt(first) or next(iter(get_close_matches(first, list(config), n=1)), None)
        raise SetupError(
            f'--cfg-options {key}: the config has no `{first}`, and nothing would read it.'
            + (f' Did you mean `{near}`?' if near else f' It has {_some(config)}.')
        )
    return said


def misspelt(key: str) -> str | None:
    """The name that a top-level one is misspelt for; None where it seems to be the user's own."""
    known = READ_BY_RUNNER | READ_BY_OTHERS
    if key in known or len(key) <= SHORT or any(key.startswith(f'{each}_') for each in known):
        return None
    return next(iter(get_close_matches(key, READ_BY_RUNNER, n=1, cutoff=ALIKE)), None)


def check_loops(config: Config, *loops: str) -> None:
    """Check that all parts of some loops are there, and have values that a loop can have.

    Args:
        config: of a tool.
        loops: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        SetupError: a part is missing, or a value can be none.
    """
    for loop in loops:
        missing = [part for part in LOOPS[loop] if config.get(part) is None]
        some = any(config.get(part) is not None for part in LOOPS[loop])
        if missing and (some or loop != 'val'):
            raise SetupError(
                f'The config has no {" and no ".join(f"`{part}`" for part in missing)}, which '
                f'{"training" if loop == "train" else loop} needs.'
            )
        loader = config.get(LOOPS[loop][0])
        if loader is None:
            continue
        _check_loader(loader, LOOPS[loop][0])
    seed = (config.get('randomness') or {}).get('seed')
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise SetupError(f'randomness.seed is {seed!r}; it is a whole number of 0 or more.')
    if 'train' in loops:
        _check_length(config)
        _check_optimizers(config.optim_wrapper, 'optim_wrapper')


def _check_loader(loader: Mapping, name: str) -> None:
    if not isinstance(loader, Mapping) or not isinstance(loader.get('dataset'), Mapping):
        raise SetupError(f'{name} has no `dataset`; it needs one with a `type`.')
    dataset = loader['dataset']
    if dataset.get('pipeline') in ([], ()) and not {'dataset', 'datasets'} & set(dataset):
        raise SetupError(f'{name}.dataset.pipeline is empty: it has to load and pack the images.')
    for key, least in (('batch_size', 1), ('num_workers', 0)):
        value = loader.get(key)
        number = isinstance(value, int) and not isinstance(value, bool)
        if key in loader and not (number and value >= least):
            raise SetupError(f'{name}.{key} is {value!r}; it is a whole number from {least} on.')


def _check_optimizers(part: Any, where: str) -> None:
    """Check the types of the optimizers of an ``optim_wrapper``, or of several inside it."""
    if not isinstance(part, Mapping):
        raise SetupError(f'{where} is {part!r}; it is a dict with an `optimizer`.')
    for key in ('student', 'discriminator'):
        if key in part:
            _check_optimizers(part[key], f'{where}.{key}')
    if 'optimizer' not in part:
        return
    optimizer = part['optimizer']
    if not isinstance(optimizer, Mapping) or 'type' not in optimizer:
        raise SetupError(f'{where}.optimizer is {optimizer!r}; it is a dict with a `type`.')
    kind = optimizer['type']
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        near = did_you_mean(kind, sorted(OPTIMIZERS.module_dict))
        raise SetupError(f'{where}.optimizer: there is no type {kind!r}.{near}')


def _check_length(config: Config) -> None:
    found = config.train_cfg
    for key, least in (('max_iters', 1), ('max_epochs', 1), ('val_interval', 1), ('val_begin', 0)):
        value = found.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
            nothing = ': nothing would be trained' if key.startswith('max') else ''
            raise SetupError(f'train_cfg.{key} is {value!r}; it is {least} or more{nothing}.')


def _some(config: Config, most: int = 8) -> str:
    keys = sorted(config)
    return ', '.join(f'`{key}`' for key in keys[:most]) + (', ...' if len(keys) > most else '')
