"""Whole configs of mmdet and mmseg trainings: their data, and the plain one of a student."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..errors import SetupError
from ..registry import MODELS
from .models import DISTILLER_TYPES, read_model_config

OURS = 'kd_dense'
OUR_BACKBONES = frozenset({'kd_dense.TimmBackbone'})  # a student keeps its backbone
# the data set and the batches of labelled images with unlabelled ones beside them
WITH, BESIDE = 'kd_dense.WithUnlabelled', 'kd_dense.BesideLabelled'
AMP_ALONE = ('loss_scale', 'dtype', 'use_fsdp')  # what only mmengine's AmpOptimWrapper takes


def check_data(config: Config, parts: tuple[str, ...]) -> None:
    """Check that the annotation files of some dataloaders are there.

    Args:
        config: its ``data_help`` says in a sentence how to get the data.
        parts: names of dataloaders, such as ``('train_dataloader', 'val_dataloader')``.

    Raises:
        FileNotFoundError: a file is not there.
    """
    for part in parts:
        loader = config.get(part)
        for dataset in leaf_datasets(loader['dataset']) if loader else ():
            path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
            if not path.exists():
                raise FileNotFoundError(
                    f'The data is not there: {path} (for {part}, looked from {Path.cwd()}). '
                    + config.get('data_help', 'Set `data_root` of the config to where it is.')
                )


class _Readable(float):
    """A float that a config's text gives in a form which Python reads back."""

    def __repr__(self) -> str:
        return f"float('{float(self)}')"


def with_readable_floats(config: Config) -> Config:
    """Let the infinities and NaNs of a config survive being written as text and read back.

    MMEngine writes ``inf`` and ``nan``, which are no names of Python, into each checkpoint.

    Args:
        config: is changed, and returned.
    """
    if found := dict(_not_finite(config.to_dict(), '')):
        config.merge_from_dict(found)
    return config


def _not_finite(part: Any, where: str) -> Iterator[tuple[str, _Readable]]:
    """The floats of a config that are not finite, by their dotted keys."""
    if isinstance(part, float) and not math.isfinite(part):
        yield where, _Readable(part)
        return
    inside = part.items() if isinstance(part, Mapping) else ()
    if isinstance(part, list | tuple):
        inside = enumerate(part)
    for key, each in inside:
        yield from _not_finite(each, f'{where}.{key}' if where else str(key))


def config_from_text(text: str) -> Config:
    """A config from the text that MMEngine writes of one, whose values are read and not run.

    Args:
        text: names and values, as ``Config.pretty_text`` gives them.

    Raises:
        SetupError: it holds anything else.
    """
    values = {}
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name != '_base_':
                    values[name] = value_in_text(value)
                case _:
                    raise ValueError(f'line {statement.lineno} assigns nothing')
    except (SyntaxError, ValueError) as error:
        raise SetupError(
            f'The text of a config in a checkpoint holds more than names and values ({error}): it '
            'is not run.'
        ) from None
    return Config(values)


def value_in_text(node: ast.expr) -> Any:
    """The value that a part of a config's text says.

    Raises:
        ValueError: it would have to be run.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id='inf' | 'nan' as name):  # as MMEngine writes them
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value_in_text(operand)
        case ast.List(elts=parts):
            return [value_in_text(part) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(value_in_text(part) for part in parts)
        case ast.Set(elts=parts):
            return {value_in_text(part) for part in parts}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {value_in_text(k): value_in_text(v) for k, v in zip(keys, values, strict=True)}
        case ast.Call(func=ast.Name(id='dict'), args=[] | [ast.Dict()] as rest, keywords=named):
            # names that Python has no keyword for stand in braces
            others = value_in_text(rest[0]) if rest else {}
            return {**others, **{each.arg: value_in_text(each.value) for each in named}}
        case ast.Call(func=ast.Name(id='float'), args=[ast.Constant(value=str(text))], keywords=[]):
            return float(text)
    raise ValueError(f'line {node.lineno} calls or names something')


def leaf_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The datasets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for each in inner:
        yield from leaf_datasets(each)


def is_distiller(config: Config) -> bool:
    """Whether a config trains with a teacher."""
    return config.model.get('type') in DISTILLER_TYPES


def replace_amp(wrapper: ConfigDict, kind: str) -> None:
    """Give an optimizer wrapper a kind that mixes no precisions as on a GPU; in place.

    Args:
        wrapper: its config, of any kind.
        kind: what it is to be.
    """
    wrapper.type = kind
    for key in AMP_ALONE:
        wrapper.pop(key, None)


def plain_student(config: Config, name: str = 'student') -> Config:
    """The config of the student alone: the same data and evaluation, no teacher, no losses of ours.

    It imports kd_dense where the student's backbone is one of ours, and else does without.

    Args:
        config: of a distiller, or already of a plain model, which is returned as it is.
        name: of a peer, in place of the student.

    Raises:
        SetupError: there is no such peer.
    """
    peers = config.model.get('peers') or {}
    if name != 'student' and name not in peers:
        known = ', '.join(map(repr, ('student', *peers)))
        raise SetupError(f'There is no model {name!r} that trains; there is {known}.')
    if not is_distiller(config):
        return config
    plain = Config(config.to_dict())
    of_peer = name != 'student'
    model = peer_model(peers[name]) if of_peer else read_model_config(config.model['student'], name)
    model.pop('_scope_', None)
    plain.model = model
    if 'discriminator' in plain.get('optim_wrapper', {}):  # the student's part of the game
        plain.optim_wrapper = plain.optim_wrapper['student']
        if 'student' in (schedules := plain.get('param_scheduler') or {}):
            plain.param_scheduler = schedules['student']
    wrapper = plain.get('optim_wrapper') or {}
    if str(wrapper.get('constructor', '')).startswith(f'{OURS}.'):  # one optimizer for each peer
        del wrapper['constructor']
    without_unlabelled(plain)
    strip_ours(plain)
    return plain


def peer_model(peer: Mapping[str, Any]) -> ConfigDict:
    """The config of a peer's model: its ``model``, with its ``changes``.

    Args:
        peer: its part of a distiller's config.
    """
    model = Config(dict(model=read_model_config(peer['model'], 'student')))
    model.merge_from_dict(dict(model=dict(peer.get('changes') or {})))
    return model.model


def strip_ours(plain: Config) -> None:
    """Take hooks and imports of kd_dense out of a plain config, in place.

    A model with a backbone of ours keeps the import that it needs to be built.
    """
    hooks = plain.get('custom_hooks') or []
    plain.custom_hooks = [h for h in hooks if not str(h['type']).startswith(f'{OURS}.')]
    modules = (plain.pop('custom_imports', None) or {}).get('imports', [])
    modules = [modules] if isinstance(modules, str) else modules
    # a module that registers a distillation loss is not needed to run the student either
    losses = {cls.__module__ for cls in MODELS.module_dict.values()}
    others = [name for name in modules if name.split('.')[0] != OURS and name not in losses]
    if has_our_backbone(plain.model):
        others.insert(0, OURS)
    if others:
        plain.custom_imports = dict(imports=others)


def without_unlabelled(config: Config) -> None:
    """Take unlabelled images out of a training's data, in place."""
    loader = config.get('train_dataloader') or {}
    if (loader.get('dataset') or {}).get('type') == WITH:
        loader.dataset = loader.dataset.dataset
    batches = loader.get('batch_sampler') or {}
    if batches.get('type') == BESIDE:
        del loader['batch_sampler']
        if batches.get('batch_sampler') is not None:
            loader.batch_sampler = batches.batch_sampler
        if batches.get('drop_last'):
            loader.drop_last = True


def has_our_backbone(model: Mapping[str, Any]) -> bool:
    """Whether a model's config needs kd_dense to be built, for its backbone."""
    return any(value in OUR_BACKBONES for _, value in mentions_of_ours(model, 'model'))


def mentions_of_ours(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Find the types and modules of kd_dense that a config names.

    Args:
        value: a config, or a part of one.
        where: its name.

    Yields:
        Where it is named, such as ``'model.backbone.type'``, and what.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from mentions_of_ours(each, f'{where}.{key}')
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from mentions_of_ours(each, f'{where}.{index}')
    elif isinstance(value, str) and value.split('.')[0] == OURS:
        yield where, value


def teachers_of(model: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The configs of the teachers of a distiller's config, by name."""
    one = {'teacher': model['teacher']} if model.get('teacher') is not None else {}
    return {**one, **(model.get('teachers') or {})}


def models_of_teachers(model: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The same, with each member of an ensemble by itself, as ``'NAME.MEMBER'``."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, teacher in teachers_of(model).items():
        if members := teacher.get('members'):
            found |= {f'{name}.{member}': each for member, each in members.items()}
        else:
            found[name] = teacher
    return found
