"""Train a detector on a folder of one's own data, in the form of COCO or of Pascal VOC."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from .errors import SetupError

FORMS = (
    'COCO: annotations/*train*.json and annotations/*val*.json, the images anywhere below; '
    'VOC: ImageSets/Main/train.txt and val.txt (or trainval.txt and test.txt), Annotations/*.xml, '
    'JPEGImages/'
)


class OwnData(NamedTuple):
    """Data found in a folder.

    Attributes:
        classes: names in order.
        train, val: configs of data sets, without pipelines.
        evaluator: config of the metric.
    """

    classes: tuple[str, ...]
    train: dict[str, Any]
    val: dict[str, Any]
    evaluator: dict[str, Any]


def use_data(config: Config, folder: str | Path, classes: Sequence[str] | None = None) -> None:
    """Point a detector's training at a folder of data; its heads get the number of classes.

    Args:
        config: a whole training; is changed. Pipelines, samplers and schedule stay.
        folder: of the data, in one of :data:`FORMS`.
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
            '`val_dataloader` in a config of your own (configs/camvid_pspnet_student.py shows how).'
        )
    if list(folder.glob('annotations/*.json')):
        data = find_coco(folder, classes)
    elif list(folder.glob('ImageSets/Main/*.txt')):
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


def find_coco(folder: Path, classes: Sequence[str] | None = None) -> OwnData:
    """Data in the form of COCO.

    Raises:
        SetupError: a file or image is not there, or the classes differ.
    """
    files = {
        'train': _one_of(folder, ('annotations/*train*.json',)),
        'val': _one_of(folder, ('annotations/*val*.json', 'annotations/*test*.json')),
    }
    names, sets = {}, {}
    for split, file in files.items():
        content = json.loads(file.read_text())
        known = tuple(c['name'] for c in sorted(content['categories'], key=lambda c: c['id']))
        names[split] = known
        sets[split] = dict(
            type='CocoDataset',
            data_root=f'{folder}/',
            ann_file=str(file.relative_to(folder)),
            data_prefix=dict(img=_image_folder(folder, content['images'][0]['file_name'], split)),
        )
    chosen = _checked(classes, names['train'], files['train'])
    _checked(chosen, names['val'], files['val'])
    for each in sets.values():
        each['metainfo'] = dict(classes=chosen)
    evaluator = dict(type='CocoMetric', metric='bbox', ann_file=str(files['val']))
    return OwnData(chosen, sets['train'], sets['val'] | dict(test_mode=True), evaluator)


def find_voc(folder: Path, classes: Sequence[str] | None = None) -> OwnData:
    """Data in the form of Pascal VOC.

    Raises:
        SetupError: a file is not there, or the classes differ.
    """
    lists = {
        'train': _one_of(folder, ('ImageSets/Main/train.txt', 'ImageSets/Main/trainval.txt')),
        'val': _one_of(folder, ('ImageSets/Main/val.txt', 'ImageSets/Main/test.txt')),
    }
    found = {
        item.findtext('name')
        for name in lists['train'].read_text().split()
        for item in ElementTree.parse(folder / 'Annotations' / f'{name}.xml').iter('object')
    }
    chosen = _checked(classes, tuple(sorted(found)), lists['train'])
    train, val = (
        dict(
            type='XMLDataset',
            data_root=f'{folder}/',
            ann_file=str(file.relative_to(folder)),
            data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes=chosen),
        )
        for file in lists.values()
    )
    evaluator = dict(type='VOCMetric', metric='mAP', eval_mode='area')
    return OwnData(chosen, train, val | dict(test_mode=True), evaluator)


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


def _one_of(folder: Path, patterns: Sequence[str]) -> Path:
    for pattern in patterns:
        files = sorted(folder.glob(pattern))
        if len(files) > 1:
            names = ', '.join(file.name for file in files)
            raise SetupError(f'{folder} has several of {pattern}: {names}. Keep one of them there.')
        if files:
            return files[0]
    raise SetupError(f'{folder} has no {" or ".join(patterns)}. {FORMS}.')


def _image_folder(folder: Path, name: str, split: str) -> str:
    """Where below a folder the images of a split lie, as mmdet wants it: ``'images/'``."""
    places = [folder, *sorted(path for path in folder.rglob('*') if path.is_dir())]
    fitting = [place for place in places if (place / name).is_file()]
    if not fitting:
        raise SetupError(f'The image {name} of the annotations is nowhere below {folder}.')
    best = next((p for p in fitting if split in p.name), fitting[0])
    return '' if best == folder else f'{best.relative_to(folder)}/'


def _checked(wanted: Sequence[str] | None, found: tuple[str, ...], where: Path) -> tuple[str, ...]:
    """The classes to train, which have to be among those of the annotations."""
    if wanted is None:
        return found
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise SetupError(
            f'{where} has no class {", ".join(map(repr, unknown))}; it has '
            f'{", ".join(map(repr, found))}.'
        )
    return tuple(wanted)
