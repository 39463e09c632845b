"""The whole config of a stage: an ordinary one, with the changes that a chain file asks for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from ..compose import compose
from ..config_check import check_names
from ..errors import SetupError
from ..hosts import read_config_file, read_model_config
from ..hosts.configs import is_distiller, teachers_of
from ..launch import override
from ..own_data import use_data
from ..unlabelled import use_unlabelled

# what of a schedule is counted in the steps of the training
OF_SCHEDULERS = ('begin', 'end', 'T_max', 'step_size', 'total_steps', 'milestones')
OF_LOOPS = ('val_interval', 'val_begin')
OF_HOOKS = ('interval', 'begin', 'end', 'begin_iter', 'begin_epoch', 'switch_epoch',
            'num_last_epochs')  # fmt: skip
SCHEDULED_HOOKS = ('CheckpointHook', 'EMAHook', 'WeightScheduleHook', 'ValidationLossHook',
                   'PipelineSwitchHook', 'YOLOXModeSwitchHook')  # fmt: skip


def stage_config(about: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> Config:
    """The config of a stage.

    Args:
        about: what the chain file says of the stage.
        others: what it says of all stages, by name, for the models of teachers.

    Returns:
        a whole config; files of other stages stand there as ``'{NAME}'`` and ``'{NAME.config}'``.

    Raises:
        FileNotFoundError: a config or the data is not there.
        SetupError: something does not fit.
    """
    if 'recipe' in about:
        config = _composed(about, others)
    else:
        config = read_config_file(about['config'], 'student')
        _check_whole(config, about['config'])
        if 'student' in about:
            _set_student(config, about['student'])
        if 'data' in about:
            use_data(config, about['data'], about.get('classes'))
        if 'teacher' in about:
            _set_teacher(config, about['teacher'])
    if about.get('options'):
        override(config, dict(about['options']))
    if 'unlabelled' in about:
        said = about['unlabelled']
        use_unlabelled(config, **(said if isinstance(said, Mapping) else dict(folder=said)))
    check_names(config, about['config'])
    if 'stored' in about and len(teachers := teachers_of(config.model)) != 1:
        raise SetupError(
            f'stored is for a stage with one teacher; found {", ".join(teachers) or "none"}. Leave '
            'it out, and they run.'
        )
    if 'steps' in about:
        stretch(config, about['steps'])
    return config


def length(config: Config) -> tuple[int, str]:
    """How long a config trains: a number, and ``'max_iters'`` or ``'max_epochs'``."""
    loop = config.train_cfg
    key = 'max_iters' if loop.get('max_iters') is not None else 'max_epochs'
    return loop[key], key


def stretch(config: Config, steps: int) -> None:
    """Make a training longer or shorter, with its learning rates, weights, validations and saves.

    Args:
        config: is changed.
        steps: iterations, or epochs where the config counts them.

    Raises:
        SetupError: ``steps`` is no whole number above 0.
    """
    if not isinstance(steps, int) or steps < 1:
        raise SetupError(f'steps is {steps!r}; it takes a whole number above 0.')
    now, key = length(config)
    factor = steps / now
    config.train_cfg[key] = steps
    _scale(config.train_cfg, OF_LOOPS, factor)
    for schedule in _dicts(config.get('param_scheduler')):
        _scale(schedule, OF_SCHEDULERS, factor)
    hooks = [*(config.get('default_hooks') or {}).values(), *(config.get('custom_hooks') or [])]
    for hook in hooks:
        if str(hook.get('type', '')).split('.')[-1] in SCHEDULED_HOOKS:
            _scale(hook, OF_HOOKS, factor)
            for phase in _dicts(list((hook.get('schedules') or {}).values())):
                _scale(phase, ('begin', 'end'), factor)


def _scale(part: dict[str, Any], keys: tuple[str, ...], factor: float) -> None:
    """Scale numbers of steps; those that are none, such as -1 and infinity, stay."""
    for key in keys:
        value = part.get(key)
        if isinstance(value, list):
            part[key] = [round(each * factor) for each in value]
        elif isinstance(value, int) and value > 0:
            part[key] = max(1, round(value * factor))


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """The single entries of a part that may be one, a list of them, or lists by name."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _dicts(each)
    elif isinstance(value, dict):
        if any(isinstance(each, Mapping | list) for each in value.values()) and (
            'type' not in value and 'kind' not in value
        ):
            yield from _dicts(list(value.values()))
        else:
            yield value


def _check_whole(config: Config, name: str) -> None:
    missing = [key for key in ('model', 'train_dataloader', 'train_cfg') if key not in config]
    if missing:
        raise SetupError(f'{name} is no whole training: it has no `{missing[0]}`.')


def _set_student(config: Config, source: str) -> None:
    """Let a training have another student."""
    model = read_model_config(source, 'student')
    model.pop('_scope_', None)
    if is_distiller(config):
        config.model.student = model
    else:
        config.model = model


def _set_teacher(config: Config, teacher: Any) -> None:
    """Let a distillation have another teacher."""
    if not is_distiller(config):
        raise SetupError('it names a teacher, and its config is no distillation. Name a `recipe`.')
    known = dict(config.model.get('teacher') or {})
    kept = {key: value for key, value in known.items() if key not in ('config', 'checkpoint')}
    found = _teacher(teacher)
    config.model.teacher = ConfigDict(found if 'type' in found else {**kept, **found})


def _teacher(teacher: Any) -> dict[str, Any]:
    """The teacher that a stage names: another stage, config and checkpoint, or several of these."""
    if isinstance(teacher, Mapping):
        found = copy.deepcopy(dict(teacher))
        if 'members' in found:
            found['members'] = {name: _teacher(each) for name, each in found['members'].items()}
        return found
    name = str(teacher).strip('{}')
    stage = name.split('.')[0]
    return dict(config=f'{{{stage}.config}}', checkpoint=f'{{{name}}}')


def _composed(about: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> Config:
    """The config of a distillation that a recipe makes of a plain training."""
    if 'teacher' not in about:
        raise SetupError('it has a recipe and no teacher.')
    if 'student' in about:
        raise SetupError('it has a recipe and a student: `config` names the student of a recipe.')
    teacher = _teacher(about['teacher'])
    looked_at = _looked_at(teacher)
    if 'config' not in looked_at:
        raise SetupError(
            f'it has a recipe and a teacher without `config` ({looked_at.get("type")}), and a '
            'recipe is checked with the model of that. Let `config` name a distillation with this '
            'teacher, and leave the recipe out.'
        )
    config, _ = compose(
        about['config'],
        _model_of(looked_at['config'], others),
        teacher.get('checkpoint'),
        about['recipe'],
        same_classes=teacher.get('same_classes', True),
        data=about.get('data'),
        classes=about.get('classes'),
    )
    config.model.teacher = ConfigDict(teacher)
    return config


def _looked_at(teacher: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model of a teacher that a recipe is checked with: of several the first."""
    while 'members' in teacher:
        teacher = next(iter(teacher['members'].values()))
    return teacher


def _model_of(source: Any, others: Mapping[str, Mapping[str, Any]]) -> Any:
    """What a teacher's model can be built from before it is trained."""
    stage = others.get(str(source).strip('{}').split('.')[0])
    if stage is None:
        return source
    left_out = {'teacher', 'unlabelled', *(('recipe', 'options') if 'recipe' in stage else ())}
    kept = {key: value for key, value in stage.items() if key not in left_out}
    return dict(read_model_config(stage_config(kept, others).to_dict(), 'teacher'))
