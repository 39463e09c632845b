"""The examination of a config, and its short form before a training."""

from __future__ import annotations

import itertools
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope

from ..distiller import Distiller
from ..errors import SetupError
from ..hosts import isolated_rng
from ..hosts.annotations import examine_annotations
from ..hosts.checkpoints import STUDENT
from ..hosts.configs import check_data, is_distiller
from .agreement import examine_pair
from .built import Built, build, of_distiller
from .classes import classes_of_data, examine_classes
from .cost import examine_cost, optimizer_config
from .findings import WARNING, WRONG, Report, Section
from .first_batch import examine_batch, examine_losses, read_batch, start_training
from .preprocessing import examine_preprocessing
from .validation import examine_quality
from .weights import Checkpoints, announce, examine_weights

COUNTER = itertools.count()  # of examinations: mmengine shares messages between equal names


def examine(
    config: Config,
    subject: str,
    checkpoint: str | None = None,
    steps: int = 3,
    validate: int = 0,
) -> Report:
    """Examine a distillation before it is trained; all findings are collected.

    Nothing is written but what training would cache of the network; the config is not changed.
    What takes its time is told on stderr.

    Args:
        config: of the training.
        subject: what to call it.
        checkpoint: what the student starts from; None for the config's ``load_from``.
        steps: of training to time; 0 for none.
        validate: images of the validation set to evaluate on; 0 for none.

    Raises:
        SetupError: the config trains nothing with a teacher.
    """
    if not is_distiller(config):
        raise SetupError(
            f'{subject} trains a {config.model.get("type")} without a teacher: there is nothing to '
            "check. Name the config of a distillation (`model.type='kd_dense.Distiller'`)."
        )
    MessageHub.get_instance(f'kd_dense.check.{next(COUNTER)}')  # none of another training
    report = Report(subject)
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        announce('building teachers and student')
        built = build(config, report.section('Models'))
        read = _at_rest(built, config, checkpoint or config.get('load_from'), report)
        announce('reading the annotations')
        _annotations(config, report.section('Annotations'))
        _at_work(built, read, config, steps, validate, report)
    return report


def before_training(config: Config, distiller: Distiller, subject: str) -> Report:
    """What can be said without a batch, of a distiller that is about to train; nothing is changed.

    Args:
        config: of the training.
        distiller: as the runner has built it.
        subject: what to call it.
    """
    report = Report(subject)
    # that models could be built needs no line
    built = of_distiller(distiller, models := Section('Models'))
    if models.findings():
        report.sections.append(models)
    scope = DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet'))
    with isolated_rng(), scope:
        _at_rest(built, config, config.get('load_from'), report, fetch=False)
    return report


def _at_rest(
    built: Built, config: Config, start: str | None, report: Report, fetch: bool = True
) -> Checkpoints:
    """What can be said of models, checkpoints and names without showing a picture of the data."""
    resumes = bool(config.get('resume'))
    read = examine_weights(built, start, report.section('Weights'), fetch, resumes)
    section = report.section('Classes')
    data = classes_of_data(config, section)
    examine_classes(built, data, read, section)
    examine_preprocessing(built, read, report.section('Preprocessing'))
    examine_pair(built, section := report.section('Pair'))
    if built.error is not None and report.healthy:  # of none of the built, nor of their agreement
        with section.collect_errors('distiller'):
            raise built.error
    return read


def _annotations(config: Config, section: Section) -> None:
    """What is wrong with the annotations of the data."""
    for part in ('train_dataloader', 'val_dataloader'):
        with section.collect_errors(part):
            if config.get(part) is None:
                continue
            check_data(config, (part,))
            found = examine_annotations(config, (part,))
            for each in found:
                mark = WRONG if each.grave else WARNING
                section.tell(part, problem=each.problem, way_out=each.way_out, mark=mark)
            if not found:
                section.tell(part, 'nothing is wrong that can be seen')


def _at_work(
    built: Built,
    read: Checkpoints,
    config: Config,
    steps: int,
    validate: int,
    report: Report,
) -> None:
    """What shows on real images."""
    section = report.section('One batch of the training set')
    if built.student is None:
        section.skipped('batch', 'there is no student to show it to')
        return
    batch: dict[str, Any] | None = None
    announce('reading a batch of the training set')
    with section.collect_errors('data'):
        check_data(config, ('train_dataloader',))
        batch = read_batch(config)
    if batch is None:
        return
    device = get_device()
    annotated = config.model.get('own_loss', True)
    examine_batch(built.student.to(device), batch, section, annotated)

    section = report.section('Losses on this batch')
    announce('computing every loss and its gradient')
    loading = Section('')
    if built.distiller is not None:
        with loading.collect_errors('teacher'):
            built.distiller.load_teacher()
    if report.healthy:  # or it was told of the weights
        section.lines += loading.lines
    if built.distiller is None or loading.lines:
        section.skipped('losses', 'the pair cannot train yet: see what is wrong')
        return
    wrapper = optimizer_config(config, on_gpu=device.startswith('cuda'))
    optimizer = start_training(built, read.get(STUDENT), wrapper, device, section)
    if optimizer is None:
        return
    examine_losses(built, batch, optimizer, config, section)

    if validate:
        section = report.section('Quality')
        announce(f'evaluating on {validate} images of the validation set')
        with section.collect_errors('validation set'):
            check_data(config, ('val_dataloader',))
            examine_quality(built, STUDENT in read, config, validate, section)
    if steps:
        announce(f'timing {steps} steps')
        section = report.section('Cost of a step')
        examine_cost(built, optimizer, batch, config, steps, section)
