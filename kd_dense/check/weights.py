"""Whether checkpoints hold the weights of the models they are named for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..backbones import PretrainedPackage
from ..hosts.checkpoints import WeightComparison, compare_weights, model_state, read_checkpoint
from .parts import Parts, as_list
from .report import Section

HALF = 0.5
PACKAGE = 'kd_dense.PretrainedPackage'


class Read(NamedTuple):
    """The checkpoints that were read; None where there is none, or none that can be read."""

    teacher: dict[str, Any] | None = None
    student: dict[str, Any] | None = None


def examine_weights(
    parts: Parts, start: str | None, section: Section, fetch: bool = True, resumes: bool = False
) -> Read:
    """Compare the checkpoints of teacher and student with their models.

    Args:
        parts: the models.
        start: checkpoint that the student starts from, besides pretrained parts.
        section: where to tell.
        fetch: whether the student's pretrained parts may be read from the network.
        resumes: whether the training goes on from its latest checkpoint.
    """
    teacher = student = None
    if parts.teacher is not None:
        with section.collect_errors('teacher'):
            teacher = _teacher(parts, section)
    if start is not None:
        with section.collect_errors('student'):
            student = _student(parts.student, start, section)
    elif resumes:
        section.ok('student', 'resumes', 'from the latest checkpoint of its work directory')
    elif parts.student is not None:
        _pretrained(parts.student, section, fetch)
    section.summary = '; '.join(
        f'{line.item}: {line.cells[0]}' for line in section.lines if line.cells
    )
    return Read(teacher, student)


def announce(name: str) -> None:
    """Say what may have to come from the network; training reads the same."""
    if '://' in name:
        print(f'reading {name}, from the cache or from the network', file=sys.stderr, flush=True)


def announce_pretrained(student: nn.Module) -> None:
    """Say what a student will read when it is initialised."""
    for _, _, init in _pretrained_parts(student):
        announce(_source(init))


def _pretrained_parts(student: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
    """Name, module and ``init_cfg`` of what starts from a checkpoint of its own."""
    for name, module in student.named_modules():
        for init in as_list(getattr(module, 'init_cfg', None)):
            if init.get('type') in ('Pretrained', PACKAGE):
                yield name, module, init


def _source(init: Mapping[str, Any]) -> str:
    """Path or URL of a checkpoint, or the name of a package."""
    return init['package'] if init['type'] == PACKAGE else init['checkpoint']


def _teacher(parts: Parts, section: Section) -> dict[str, Any] | None:
    options = parts.teacher
    if options.checkpoint is None:
        section.warning(
            'teacher',
            'untrained',
            problem='The teacher has random weights: it teaches noise.',
            way_out='Name its checkpoint: `model.teacher.checkpoint=PATH_OR_URL`.',
        )
        return None
    announce(options.checkpoint)
    checkpoint = read_checkpoint(options.checkpoint, 'teacher', options.how_to_train())
    if parts.teacher_model is None:
        return checkpoint
    if options.loaded:  # its batch norms may be folded: the names are no longer the checkpoint's
        section.ok('teacher', 'complete', options.checkpoint)
        return checkpoint
    found = compare_weights(parts.teacher_model, model_state(checkpoint))
    shown = (f'{found.matched} of {found.total}', options.checkpoint)
    if found.complete:
        section.ok('teacher', *shown, **_numbers(found))
    else:
        section.wrong(
            'teacher',
            *shown,
            problem=f'The checkpoint does not fit the teacher: {found}.',
            way_out='Name the checkpoint that was trained with this config '
            '(`model.teacher.checkpoint`), or the config that this checkpoint was trained with '
            '(`model.teacher.config`).',
            **_numbers(found),
        )
    return checkpoint


def _student(model: nn.Module | None, start: str, section: Section) -> dict[str, Any]:
    announce(start)
    checkpoint = read_checkpoint(start, 'student')
    if model is not None:
        _compare(
            'student',
            compare_weights(model, model_state(checkpoint)),
            start,
            section,
            'Name another checkpoint (`load_from`, `--checkpoint`), or the config of the student '
            'that this one was trained with.',
        )
    return checkpoint


def _pretrained(student: nn.Module, section: Section, fetch: bool) -> None:
    """Compare the checkpoints that parts of the student are initialised from."""
    named = list(_pretrained_parts(student))
    for name, module, init in named:
        item = f'student.{name}' if name else 'student'
        source = _source(init)
        if '://' in source and not fetch:
            section.ok(item, 'pretrained', source)
            continue
        with section.collect_errors(item):
            if init['type'] == PACKAGE:
                _package(module, source, item, section)
                continue
            announce(source)
            state = _named_state(read_checkpoint(source, item), init.get('prefix'))
            found = compare_weights(module, state)
            if not found.matched and (loader := _own_loader(module)):
                section.skipped(item, f'not compared: {loader} translates {source} itself')
                continue
            # what a classifier had on top is of no use here
            found = found._replace(unexpected=[])
            _compare(item, found, source, section, 'Name a checkpoint of this backbone.')
    if not named:
        section.ok('student', 'random', 'starts from its random weights')


def _package(module: nn.Module, package: str, item: str, section: Section) -> None:
    """Tell how the weights of a package fit: training loads all of them, or stops."""
    initializer = PretrainedPackage(package)
    _, found = initializer.compare(module)
    if found.complete:
        section.ok(item, f'{found.matched} of {found.total}', package, **_numbers(found))
        return
    section.wrong(
        item,
        f'{found.matched} of {found.total}',
        package,
        problem=initializer.misfit(found),
        way_out='Name the package or the network that fits (`init_cfg`, `model_name`).',
        **_numbers(found),
    )


def _named_state(checkpoint: Mapping[str, Any], prefix: str | None) -> dict[str, Tensor]:
    """Weights as mmengine's ``PretrainedInit`` names them."""
    state = checkpoint.get('state_dict', checkpoint)
    state = {k.removeprefix('module.'): v for k, v in state.items() if isinstance(v, Tensor)}
    if prefix is None:
        return state
    start = prefix.removesuffix('.') + '.'
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def _own_loader(module: nn.Module) -> str:
    """Class and name of a backbone's own ``init_weights``; empty where it is mmengine's."""
    owner = next(c for c in type(module).__mro__ if 'init_weights' in vars(c))
    return '' if owner.__module__.startswith('mmengine') else f'{owner.__name__}.init_weights'


def _compare(
    item: str, found: WeightComparison, source: str, section: Section, way_out: str
) -> None:
    """Tell how a student's checkpoint fits: what does not fit is left out of it in training."""
    shown = (f'{found.matched} of {found.total}', source)
    if found.complete:
        section.ok(item, *shown, **_numbers(found))
        return
    tell = section.wrong if found.matched < HALF * found.total else section.warning
    tell(
        item,
        *shown,
        problem=f'{found}. Training would load what matches, and start the rest anew.',
        way_out=way_out,
        **_numbers(found),
    )


def _numbers(found: WeightComparison) -> dict[str, Any]:
    return {key: getattr(found, key) for key in WeightComparison._fields}
