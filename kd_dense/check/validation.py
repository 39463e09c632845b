"""How good teachers and student are on some images of the validation set."""

from __future__ import annotations

import copy
import tempfile
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from torch import nn

from ..distiller import STUDENT
from ..errors import SetupError
from ..hooks.common import restored_afterwards
from ..pictures import evenly
from .built import Built, as_list
from .findings import WARNING, WRONG, Section

MAIN = ('coco/bbox_mAP', 'pascal_voc/mAP', 'mIoU')
NOTHING = 'no predictions:'
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
        models = {STUDENT: built.student} if trained else {}
        for name, teacher in built.teachers.items():
            try:
                models[name] = teacher.predictor()
            except SetupError as error:
                section.skipped(name, str(error))
        for role, model in models.items():
            with section.collect_errors(role), restored_afterwards(model):
                model.eval()
                found[role] = _evaluate(model, dataset, picks, config)
        _tell(found, len(picks), section)


def _tell(found: dict[str, tuple[str, float]], images: int, section: Section) -> None:
    student = found[STUDENT][1] if STUDENT in found else None
    for role, (metric, value) in found.items():
        near_zero = NEAR_ZERO * (100 if 'IoU' in metric else 1)
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


def _evaluate(
    model: nn.Module, dataset: Any, picks: list[int], config: Config
) -> tuple[str, float]:
    """The name of the main metric, and its value."""
    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator([_elsewhere(m, folder) for m in as_list(config.val_evaluator)])
        evaluator.dataset_meta = dataset.metainfo
        ids = []
        size = config.val_dataloader.get('batch_size', 1)
        for start in range(0, len(picks), size):
            batch = pseudo_collate([dataset[i] for i in picks[start : start + size]])
            with torch.no_grad():
                samples = model.test_step(batch)
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
