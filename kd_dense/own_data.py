"""Train on a folder of one's own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from .data_forms import FORMS, OwnData, find_coco, find_masks, find_voc
from .errors import SetupError
from .hosts.configs import is_distiller, leaf_datasets


def use_data(config: Config, folder: str | Path, classes: Sequence[str] | None = None) -> None:
    """Point a training at a folder of data; the model's heads get the number of classes.

    Args:
        config: a whole training, of a plain model or a distiller; is changed. Pipelines, samplers
            and schedule stay.
        folder: of the data: for detectors in one of :data:`~kd_dense.data_forms.FORMS`, for
            segmentors in :data:`~kd_dense.data_forms.MASK_FORM`.
        classes: names in order; those that the data tells where left out.

    Raises:
        FileNotFoundError: no such folder.
        SetupError: the folder has none of these forms, or names other classes than ``classes``.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f'There is no folder {folder} (--data).')
    model = config.model.student if is_distiller(config) else config.model
    segments = 'decode_head' in model
    data = find_masks(folder, classes) if segments else _boxes(config, folder, classes)
    config.train_dataloader.dataset = _placed(config.train_dataloader.dataset, data.train)
    for part in ('val', 'test'):
        if config.get(f'{part}_dataloader'):
            loader = config[f'{part}_dataloader']
            loader.dataset = _placed(loader.dataset, data.val)
            config[f'{part}_evaluator'] = ConfigDict(data.evaluator)
    config.data_help = f'It was found in {folder}, by --data.'
    if not set_num_classes(model, len(data.classes)):
        raise SetupError('No part of the student has `num_classes`; set them in its config.')


def _boxes(config: Config, folder: Path, classes: Sequence[str] | None) -> OwnData:
    """A detector's data in a folder."""
    masks = any(
        step.get('with_mask')
        for leaf in leaf_datasets(config.train_dataloader.dataset)
        for step in leaf.get('pipeline', ())
    )
    if list(folder.glob('annotations/*.json')):
        return find_coco(folder, classes, masks)
    if not list(folder.glob('ImageSets/Main/*.txt')):
        raise SetupError(f'{folder} has neither form of data. {FORMS}.')
    if masks:
        raise SetupError(
            f'The student learns masks, and {folder} is in the form of VOC, which holds boxes. '
            'Choose a student of boxes, or data in the form of COCO with `segmentation`.'
        )
    return find_voc(folder, classes)


def set_num_classes(model: ConfigDict, count: int) -> int:
    """Set the number of classes wherever a model's config has one; return how many it had."""
    found = 0
    for key, value in model.items():
        if key == 'num_classes':
            _set_class_weights(model, value, count)
            model[key] = count
            found += 1
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, dict):
                found += set_num_classes(each, count)
    return found


def _set_class_weights(head: ConfigDict, old: int, count: int) -> None:
    """Bring weights of classes that are all alike, but for the background, to another number."""
    for loss in head.values():
        weights = loss.get('class_weight') if isinstance(loss, dict) else None
        if isinstance(weights, list) and len(weights) == old + 1 and len(set(weights[:-1])) == 1:
            loss['class_weight'] = [weights[0]] * count + weights[-1:]


def _placed(dataset: ConfigDict, own: dict[str, Any]) -> ConfigDict:
    """A data set in the place of another, with its pipeline; several become one."""
    if 'datasets' in dataset:
        return _placed(dataset.datasets[0], own)
    if 'dataset' in dataset:
        dataset.dataset = _placed(dataset.dataset, own)
        return dataset
    names = ('pipeline',) if own['type'] == 'BaseSegDataset' else ('pipeline', 'filter_cfg')
    kept = {key: dataset[key] for key in names if key in dataset}
    for step in kept.get('pipeline', ()):
        step.pop('reduce_zero_label', None)  # of the data that was there before
    return ConfigDict(own | kept)
