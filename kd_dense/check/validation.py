"""How good teacher and student are on some images of the validation set."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from torch import nn

from ..hooks.common import restored_afterwards
from ..teachers import Teacher
from ..views import Batch
from .parts import Parts, as_list
from .report import Section

MAIN = ('coco/bbox_mAP', 'pascal_voc/mAP', 'mIoU')
NOTHING = 'no predictions:'
NEAR_ZERO = 0.01  # of what is possible
CLEARLY = 0.9  # a teacher below this share of the student's is worse by more than chance
Predict = Callable[[dict[str, Any]], list]


def examine_quality(
    parts: Parts, trained: bool, config: Config, images: int, section: Section
) -> None:
    """Evaluate the teacher, and the student where it was trained.

    Args:
        parts: with a distiller that is ready to train.
        trained: whether the student has a checkpoint.
        config: of the training.
        images: how many of the validation set.
        section: where to tell.
    """
    found = {}
    with section.collect_errors('validation set'):
        dataset = DATASETS.build(copy.deepcopy(config.val_dataloader.dataset))
        picks = _spread(len(dataset), images)
        models: dict[str, tuple[nn.Module, Predict]] = {
            'teacher': (parts.teacher_model, _by_teacher(parts.distiller.teacher, parts.student))
        }
        if trained:
            models['student'] = (parts.student, parts.student.test_step)
        for role, (model, predict) in models.items():
            with section.collect_errors(role), restored_afterwards(model):
                model.eval()
                found[role] = _evaluate(predict, dataset, picks, config)
    if 'teacher' in found:
        _tell(found, len(picks), section)


def _tell(found: dict[str, tuple[str, float]], images: int, section: Section) -> None:
    metric, teacher = found['teacher']
    whole = 100 if 'IoU' in metric else 1
    student = found['student'][1] if 'student' in found else None
    shown = f'{metric} {teacher:.4g} on {images} images'
    problem = ''
    if not teacher > NEAR_ZERO * whole:
        problem = 'The teacher knows next to nothing of these images.'
    elif student is not None and teacher < student:
        problem = 'The teacher is worse than the student.'
    if problem:
        slightly = student is not None and teacher > max(CLEARLY * student, NEAR_ZERO * whole)
        tell = section.warning if slightly else section.wrong
        tell(
            'teacher',
            shown,
            problem=problem,
            way_out='Look at its checkpoint, classes and preprocessing above; evaluate it by '
            '`kd-dense test CONFIG_OF_THE_TEACHER CHECKPOINT`, and look at the size of '
            'images that it was trained on.',
            value=teacher,
        )
    else:
        section.ok('teacher', shown, value=teacher)
    if student is not None:
        section.ok('student', f'{metric} {student:.4g} on {images} images', value=student)


def _evaluate(
    predict: Predict, dataset: Any, picks: list[int], config: Config
) -> tuple[str, float]:
    """The name of the main metric, and its value."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        evaluator = Evaluator([_elsewhere(m, folder) for m in as_list(config.val_evaluator)])
        evaluator.dataset_meta = dataset.metainfo
        ids = []
        for chunk in _chunks(picks, config.val_dataloader.get('batch_size', 1)):
            batch = pseudo_collate([dataset[i] for i in chunk])
            with torch.no_grad():
                samples = predict(batch)
            ids += [sample.metainfo.get('img_id') for sample in samples]
            evaluator.process(data_samples=samples, data_batch=batch)
        for metric in evaluator.metrics:
            if hasattr(metric, 'img_ids'):  # or COCO's would miss all images that were left out
                metric.img_ids = ids
        values = evaluator.evaluate(len(picks))
    numbers = {k: float(v) for k, v in values.items() if isinstance(v, Real)}
    # a metric that was shown no prediction at all may return nothing
    best = next((k for k in (*MAIN, *numbers) if k in numbers), NOTHING)
    return best, numbers.get(best, 0.0)


def _elsewhere(metric: dict[str, Any], folder: str) -> dict[str, Any]:
    """A metric that writes its files, if any, into another folder."""
    metric = copy.deepcopy(metric)
    for key in ('outfile_prefix', 'output_dir', 'out_file_path'):
        if metric.get(key) is not None:
            metric[key] = str(Path(folder, Path(metric[key]).name))
    return metric


def _by_teacher(teacher: Teacher, student: nn.Module) -> Predict:
    """Predictions of a teacher, who sees the student's images its own way, in float32."""
    model = teacher.predictor()

    def predict(batch: dict[str, Any]) -> list:
        data = student.data_preprocessor(batch, False)
        view = teacher.view(Batch(data['inputs'], data['data_samples']))
        return model(view.batch.images.float(), data['data_samples'], mode='predict')

    return predict


def _spread(length: int, wanted: int) -> list[int]:
    """Indices over the whole of a data set, at even distances."""
    count = min(length, wanted)
    return [i * length // count for i in range(count)]


def _chunks(picks: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(picks), size):
        yield picks[start : start + size]
