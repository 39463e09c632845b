"""Whether checkpoints hold the weights of the models they are named for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ..backbones import PretrainedPackage
from ..errors import SetupError
from ..hosts.checkpoints import (
    OTHER_CHECKPOINT,
    STUDENT,
    WeightComparison,
    compare_weights,
    model_state,
    read_checkpoint,
)
from ..teachers import Teacher
from .built import Built, as_list
from .findings import WARNING, WRONG, Section

HALF = 0.5
PACKAGE = 'kd_dense.PretrainedPackage'
NOISE = 'The teacher has random weights: it teaches noise.'
HERE = 'The checkpoint is `load_from` or `--checkpoint`.'
Checkpoints = dict[str, Mapping[str, Any]]  # that were read, by 'student' or a teacher's name


def examine_weights(
    built: Built, start: str | None, section: Section, fetch: bool = True, resumes: bool = False
) -> Checkpoints:
    """Compare the checkpoints of teachers and student with their models.

    Args:
        built: the models.
        start: checkpoint that the student starts from, besides pretrained parts.
        section: where to tell.
        fetch: whether the student's pretrained parts may be read from the network.
        resumes: whether the training goes on from its latest checkpoint.
    """
    read: Checkpoints = {}
    for name, teacher in built.teachers.items():
        with section.collect_errors(name):
            announce_source(teacher.source)
            if (checkpoint := teacher.read_checkpoint()) is not None:
                read[name] = checkpoint
            if name in built.models:  # or it was told why it has none
                _teacher(name, teacher, built.models[name], checkpoint, section)
            elif teacher.untrained:
                section.tell(name, 'untrained', mark=WARNING, problem=NOISE)
    if start is not None:
        with section.collect_errors(STUDENT):
            announce_source(start)
            read[STUDENT] = read_checkpoint(start, STUDENT)
            if built.student is not None:
                found = compare_weights(built.student, model_state(read[STUDENT]))
                named = f'Name another checkpoint (`load_from`, `--checkpoint`). {OTHER_CHECKPOINT}'
                _starts(STUDENT, found, start, section, named)
    elif resumes:
        section.tell(STUDENT, 'resumes', 'from the latest checkpoint of its work directory')
    elif built.student is not None:
        _pretrained(built.student, section, fetch)
    section.summary = '; '.join(
        f'{line.item}: {line.cells[0]}' for line in section.lines if line.cells
    )
    return read


def announce(text: str) -> None:
    """Tell on stderr what takes its time."""
    print(f'{text} ...', file=sys.stderr, flush=True)


def announce_source(name: str) -> None:
    """Tell what may have to come from the network; training reads the same."""
    if '://' in name:
        announce(f'reading {name}, from the cache or from the network')


def announce_pretrained(student: nn.Module) -> None:
    """Say what a student will read when it is initialised."""
    for *_, source in _pretrained_parts(student):
        announce_source(source)


def _pretrained_parts(
    student: nn.Module,
) -> Iterator[tuple[str, nn.Module, dict[str, Any], str]]:
    """Name, module and ``init_cfg`` of what starts from weights of its own, and their source."""
    for name, module in student.named_modules():
        for init in as_list(getattr(module, 'init_cfg', None)):
            if init.get('type') in ('Pretrained', PACKAGE):
                yield f'{STUDENT}.{name}' if name else STUDENT, module, init, _source(init)


def _source(init: Mapping[str, Any]) -> str:
    """Path or URL of a checkpoint, or the name of a package.

    Raises:
        SetupError: none is named.
    """
    key = 'package' if init['type'] == PACKAGE else 'checkpoint'
    if not init.get(key):
        raise SetupError(f'An `init_cfg` of type {init["type"]} names no `{key}`: {dict(init)}.')
    return init[key]


def _teacher(
    name: str,
    teacher: Teacher,
    model: nn.Module,
    checkpoint: Mapping[str, Any] | None,
    section: Section,
) -> None:
    option = 'model.teacher' if name == 'teacher' else f'model.teachers.{name}'
    if checkpoint is None:
        section.tell(
            name,
            'untrained' if teacher.untrained else teacher.source or 'no checkpoint',
            mark=WARNING,
            problem=NOISE if teacher.untrained else '',
            way_out=f'Name its checkpoint: `{option}.checkpoint=PATH_OR_URL`.',
        )
    elif teacher.loaded:  # folded batch norms have other names than those of the checkpoint
        section.tell(name, 'complete', teacher.source)
    else:
        found = compare_weights(model, model_state(checkpoint))
        problem = f'The checkpoint does not fit the {name}: {found}.'
        way_out = f'{OTHER_CHECKPOINT} They are `{option}.checkpoint` and `.config`.'
        _tell(name, found, teacher.source, section, problem, way_out)


def _pretrained(student: nn.Module, section: Section, fetch: bool) -> None:
    """Compare the weights that parts of the student are initialised from."""
    parts = list(_pretrained_parts(student))
    for item, module, init, source in parts:
        if '://' in source and not fetch:
            section.tell(item, 'pretrained', source)
            continue
        with section.collect_errors(item):
            if init['type'] == PACKAGE:  # training loads all of it, or stops
                initializer = PretrainedPackage(source)
                _, found = initializer.compare(module)
                way_out = 'Name the package or the network that fits (`init_cfg`, `model_name`).'
                _tell(item, found, source, section, initializer.misfit(found), way_out)
                continue
            announce_source(source)
            state = _named_state(read_checkpoint(source, item), init.get('prefix'))
            found = compare_weights(module, state)
            if not found.matched and (loader := _own_loader(module)):
                section.skipped(item, f'not compared: {loader} translates {source} itself')
                continue
            # what a classifier had on top is of no use here
            found = found._replace(unexpected=[])
            _starts(item, found, source, section, 'Name a checkpoint of this backbone.')
    if not parts:
        section.tell(STUDENT, 'random', 'starts from its random weights')


def _named_state(checkpoint: Mapping[str, Any], prefix: str | None) -> dict[str, Tensor]:
    """Weights as mmengine's ``PretrainedInit`` names them."""
    state = checkpoint.get('state_dict', checkpoint)
    state = {k.removeprefix('module.'): v for k, v in state.items() if isinstance(v, Tensor)}
    start = '' if prefix is None else prefix.removesuffix('.') + '.'
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def _own_loader(module: nn.Module) -> str:
    """Class and name of a backbone's own ``init_weights``; empty where it is mmengine's."""
    owner = next(c for c in type(module).__mro__ if 'init_weights' in vars(c))
    return '' if owner.__module__.startswith('mmengine') else f'{owner.__name__}.init_weights'


def _starts(
    item: str, found: WeightComparison, source: str, section: Section, way_out: str
) -> None:
    """Tell how a checkpoint fits a student, who does without what does not fit."""
    problem = f'{found}. Training would load what matches, and start the rest anew.'
    mark = WRONG if found.matched < HALF * found.total else WARNING
    _tell(item, found, source, section, problem, way_out, mark)


def _tell(
    item: str,
    found: WeightComparison,
    source: str,
    section: Section,
    problem: str,
    way_out: str,
    mark: str = WRONG,
) -> None:
    problem = '' if found.complete else problem
    counts = f'{found.matched} of {found.total}'
    told = dict(problem=problem, way_out=way_out, mark=mark)
    section.tell(item, counts, source, **told, **found._asdict())
