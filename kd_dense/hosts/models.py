"""Find a model by what a user names it by: a config path, an ``mmdet::`` name or a dict."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from torch import nn

from ..errors import SetupError
from ..stack import NEEDED_BY_SEGMENTATION, problems

DISTILLER_TYPES = ('kd_dense.Distiller', 'Distiller')
Host = Any  # a built model of mmdet or mmseg; which parts it has, its view knows
ModelSource = str | Path | Mapping[str, Any]


def read_model_config(source: ModelSource, role: str) -> ConfigDict:
    """Read the ``model`` part of a config.

    Args:
        source: path of a config file, ``mmdet::...`` name, or a dict (a whole config or its model).
        role: ``'teacher'`` or ``'student'``, for messages.

    Returns:
        the model's config, a copy; scope kept under ``_scope_``.

    Raises:
        FileNotFoundError: there is no such file or name.
        SetupError: the config holds no model.
    """
    if isinstance(source, Mapping):
        config = ConfigDict(copy.deepcopy(dict(source)))
        if 'type' in config:
            return _student_of(config, role)
    else:
        config = read_config_file(str(source), role)
    if 'model' not in config:
        raise SetupError(
            f'The config of the {role} holds no `model`: found {sorted(config)} in '
            f'{source if not isinstance(source, Mapping) else "the dict"}. Name a model config of '
            'mmdet or mmseg.'
        )
    model = ConfigDict(copy.deepcopy(config['model'].to_dict()))
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(config['data_preprocessor']))
    model.setdefault('_scope_', config.get('default_scope') or 'mmdet')
    return _student_of(model, role)


def _student_of(model: ConfigDict, role: str) -> ConfigDict:
    """Of a distiller its student, who may have become a teacher; any other model as it is."""
    if model['type'] not in DISTILLER_TYPES:
        return model
    student = read_model_config(model['student'], role)
    for key in ('data_preprocessor', '_scope_'):
        if model.get(key) is not None:
            student.setdefault(key, model[key])
    return student


def read_config_file(name: str, role: str) -> Config:
    """Read a whole config.

    Args:
        name: path of a config file, or ``mmdet::...`` or ``mmseg::...`` name.
        role: ``'teacher'`` or ``'student'``, for messages.

    Raises:
        FileNotFoundError: there is no such file or name.
    """
    if '::' not in name:
        if not Path(name).is_file():
            raise FileNotFoundError(
                f'The config of the {role} was not found: {name} (looked from {Path.cwd()}). '
                'Name an existing file, or a config that ships with mmdet as '
                "'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'."
            )
        return Config.fromfile(name)
    try:
        _check_installed(name.split('::')[0])  # or mmengine would pip-install it
        return copy.deepcopy(_of_package(name))
    except SetupError:
        raise
    except (
        AssertionError,
        FileNotFoundError,
        KeyError,
        RuntimeError,
        ValueError,
        ImportError,
    ) as error:
        raise FileNotFoundError(
            f'The config of the {role} was not found: {name} ({error}). The part before `::` is '
            'the package (mmdet, mmseg), the rest a path below its configs folder, such as '
            "'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'."
        ) from error


@cache
def _of_package(name: str) -> Config:
    """A config of an installed package; mmengine reads the package's whole index for each."""
    from mmengine.hub import get_config  # slow to import, and only needed for names

    return get_config(name)


def need_mmseg() -> None:
    """Import mmseg, which a model or data set asks for.

    Raises:
        SetupError: it is missing, does not import, or has another version.
    """
    found = problems(NEEDED_BY_SEGMENTATION)
    if not found:
        try:
            import mmseg.models  # noqa: F401
        except ImportError as error:
            found = [f'mmseg.models cannot be imported ({error})']
    if found:
        raise SetupError(
            f'Segmentation needs MMSegmentation: {found[0]}. Beside the OneDL packages pip install '
            "'kd_dense[seg]', beside OpenMMLab's own pip install mmsegmentation ftfy regex."
        )


def _check_installed(package: str) -> None:
    if package == 'mmseg':
        need_mmseg()
    if not package.isidentifier() or importlib.util.find_spec(package) is None:
        raise ImportError(f'there is no package {package!r} here')


def without_downloads(model: ConfigDict) -> ConfigDict:
    """A model's config that is only built, to be looked at: nothing pretrained."""
    model = copy.deepcopy(model)
    model.pop('pretrained', None)
    if model.get('backbone'):
        model.backbone.pop('init_cfg', None)
    return model


def build_model(config: ConfigDict) -> nn.Module:
    """Build a model of mmdet or mmseg from its config, in its own scope."""
    config = copy.deepcopy(config)
    scope = config.pop('_scope_', None) or _current_scope()
    if scope == 'mmseg':
        need_mmseg()
    with DefaultScope.overwrite_default_scope(scope):
        return MMENGINE_MODELS.build(config)


def _current_scope() -> str:
    current = DefaultScope.get_current_instance()
    return current.scope_name if current is not None else 'mmdet'
