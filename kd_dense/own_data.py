"""Train a detector on a folder of one's own data, in the form of COCO or of Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from .data_forms import FORMS, find_coco, find_voc
from .errors import SetupError
from .hosts.configs import leaf_datasets


def use_data(config: Config, folder: str | Path, classes: Sequence[str] | None = None) -> None:
    """Point a detector's training at a folder of data; its heads get the number of classes.

    Args:
        config: a whole training; is changed. Pipelines, samplers and schedule stay.
        folder: of the data, in one of :data:`~kd_dense.data_forms.FORMS`.
        classes: names in order; those in the annotations where left out.

    Raises:
        FileNotFoundError: no such folder.
        SetupError: the folder has neither form, or names other classes than ``classes``.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f'There is no folder {folder} (--data).')
    if 'decode_head' in config.model:
        raise SetupError(
            '--data takes boxes, and the student is a segmentor. Set `train_dataloader` and '
            '`val_dataloader` in a config of your own, as configs/_base_/datasets/camvid.py does.'
        )
    masks = any(
        step.get('with_mask')
        for leaf in leaf_datasets(config.train_dataloader.dataset)
        for step in leaf.get('pipeline', ())
    )
    if list(folder.glob('annotations/*.json')):
        data = find_coco(folder, classes, masks)
    elif list(folder.glob('ImageSets/Main/*.txt')):
        if masks:
            raise SetupError(
                f'The student learns masks, and {folder} is in the form of VOC, which holds boxes. '
                'Choose a student of boxes, or data in the form of COCO with `segmentation`.'
            )
        data = find_voc(folder, classes)
    else:
        raise SetupError(f'{folder} has neither form of data. {FORMS}.')
    config.train_dataloader.dataset = _placed(config.train_dataloader.dataset, data.train)
    for part in ('val', 'test'):
        if config.get(f'{part}_dataloader'):
            loader = config[f'{part}_dataloader']
            loader.dataset = _placed(loader.dataset, data.val)
            config[f'{part}_evaluator'] = ConfigDict(data.evaluator)
    if not set_num_classes(config.model, len(data.classes)):
        raise SetupError('No part of the student has `num_classes`; set them in its config.')


def set_num_classes(model: ConfigDict, count: int) -> int:
    """Set the number of classes wherever a model's config has one; return how many it had."""
    found = 0
    for key, value in model.items():
        if key == 'num_classes':
            model[key] = count
            found += 1
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, dict):
                found += set_num_classes(each, count)
    return found


def _placed(dataset: ConfigDict, own: dict[str, Any]) -> ConfigDict:
    """A data set in the place of another, with its pipeline; several become one."""
    if 'datasets' in dataset:
        return _placed(dataset.datasets[0], own)
    if 'dataset' in dataset:
        dataset.dataset = _placed(dataset.dataset, own)
        return dataset
    kept = {key: dataset[key] for key in ('pipeline', 'filter_cfg') if key in dataset}
    return ConfigDict(own | kept)
