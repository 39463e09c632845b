"""How good teachers and student are on some images of the validation set."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import nn

from ..errors import SetupError
from ..evaluation import Predicted, evaluate, largest
from ..hooks.common import restored_afterwards
from ..hosts.checkpoints import STUDENT
from ..pictures import evenly
from .built import Built, as_list
from .findings import WARNING, WRONG, Section

NEAR_ZERO = 0.01  # of what is possible
CLEARLY = 0.9  # a teacher below this share of the student's is worse by more than chance


def examine_quality(
    built: Built, trained: bool, config: Config, images: int, section: Section
) -> None:
    """Evaluate the teachers that predict, and a student that was trained, on validation images."""
    found = {}
    with section.collect_errors('validation set'):
        dataset = DATASETS.build(copy.deepcopy(config.val_dataloader.dataset))
        picks = evenly(len(dataset), images)
        size = config.val_dataloader.get('batch_size', 1)
        metrics = as_list(config.val_evaluator)
        models = {STUDENT: built.student} if trained else {}
        for name, teacher in built.teachers.items():
            try:
                models[name] = teacher.predictor()
            except SetupError as error:
                section.skipped(name, str(error))
        for role, model in models.items():
            with section.collect_errors(role), restored_afterwards(model):
                model.eval()
                predicted = _predictions(model, dataset, picks, size)
                found[role] = evaluate(predicted, metrics, dataset.metainfo)
        _tell(found, len(picks), section)


def _tell(found: dict[str, tuple[str, float]], images: int, section: Section) -> None:
    student = found[STUDENT][1] if STUDENT in found else None
    for role, (metric, value) in found.items():
        near_zero = NEAR_ZERO * largest(metric)
        problem = ''
        if role != STUDENT and not value > near_zero:
            problem = 'The teacher knows next to nothing of these images.'
        elif role != STUDENT and student is not None and value < student:
            problem = 'The teacher is worse than the student.'
        slightly = student is not None and value > max(CLEARLY * student, near_zero)
        section.tell(
            role,
            f'{metric} {value:.4g} on {images} images',
            mark=WARNING if slightly else WRONG,
            problem=problem,
            way_out='Look at its checkpoint, classes and preprocessing above; evaluate it by '
            '`kd-dense test CONFIG_OF_THE_TEACHER CHECKPOINT`, and look at the size of '
            'images that it was trained on.',
            value=value,
        )


def _predictions(
    model: nn.Module, dataset: Any, picks: list[int], size: int
) -> Iterator[Predicted]:
    """What a model predicts of some images, in batches of a size."""
    for start in range(0, len(picks), size):
        batch = pseudo_collate([dataset[i] for i in picks[start : start + size]])
        with torch.no_grad():
            samples = model.test_step(batch)
        yield samples, batch
