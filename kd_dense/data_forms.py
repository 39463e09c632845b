"""Data in a folder of one's own: COCO's form, Pascal VOC's, or images and label pictures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image

from .errors import SetupError
from .hosts.annotations import voc_file

FORMS = (
    'COCO: annotations/*train*.json and annotations/*val*.json, the images anywhere below; '
    'VOC: ImageSets/Main/train.txt and val.txt (or trainval.txt and test.txt), Annotations/*.xml, '
    'JPEGImages/'
)
MASK_FORM = (
    'images/train/ and images/val/, and of the same names labels/train/*.png and labels/val/*.png, '
    'whose pixels are indices of classes, 255 where they are ignored; names of the classes in '
    'classes.txt, one a line'
)
LABEL_FOLDERS = ('labels', 'masks', 'annotations')
IGNORED = 255
SAMPLE = 200  # label pictures that are looked at for the number of classes


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


def find_coco(folder: Path, classes: Sequence[str] | None = None, masks: bool = False) -> OwnData:
    """Data in the form of COCO.

    Args:
        folder: of the data.
        classes: to choose; mmdet numbers them in the order of the annotations' ``categories``.
        masks: whether objects need masks.

    Raises:
        SetupError: a file or image is not there, classes differ or are in another order, or there
            are no masks.
    """
    files = {
        'train': _one_of(folder, ('annotations/*train*.json',)),
        'val': _one_of(folder, ('annotations/*val*.json', 'annotations/*test*.json')),
    }
    chosen, sets = classes, {}
    for split, file in files.items():
        content = _read_coco(file)
        names = tuple(each['name'] for each in content['categories'])
        chosen = _checked(chosen, names, file)
        in_order = tuple(name for name in names if name in chosen)
        if in_order != chosen:
            raise SetupError(
                f'{file} lists its categories in the order {", ".join(map(repr, in_order))}, by '
                f'which mmdet numbers the classes, and {", ".join(map(repr, chosen))} were asked '
                'for. Give that order, or sort the list `categories` in the files (ids may stay).'
            )
        if masks and not any(each.get('segmentation') for each in content['annotations']):
            raise SetupError(
                f'The student learns masks, and {file} holds none (`segmentation` of its '
                'annotations is empty). Choose a student of boxes, such as Faster R-CNN.'
            )
        sets[split] = dict(
            type='CocoDataset',
            data_root=f'{folder}/',
            ann_file=str(file.relative_to(folder)),
            data_prefix=dict(img=_image_folder(folder, content['images'][0]['file_name'], split)),
            metainfo=dict(classes=chosen),
        )
    metric = ['bbox', 'segm'] if masks else 'bbox'
    evaluator = dict(type='CocoMetric', metric=metric, ann_file=str(files['val']))
    return OwnData(chosen, sets['train'], sets['val'] | dict(test_mode=True), evaluator)


def category_names(file: Path) -> tuple[str, ...] | None:
    """Names of the categories in COCO annotations, in the order that labels follow.

    Reads that list alone, for files of hundreds of megabytes; None where it does not find it.
    """
    text = file.read_text(encoding='utf-8', errors='replace')
    start = text.rfind('"categories"')
    opening = text.find('[', start)
    if start < 0 or opening < 0:
        return None
    listed, _ = json.JSONDecoder().raw_decode(text, opening)
    known = listed and all(isinstance(each, dict) and 'name' in each for each in listed)
    return tuple(each['name'] for each in listed) if known else None


def _read_coco(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except UnicodeDecodeError as error:
        raise SetupError(
            f'{file} is not text in UTF-8 ({error.reason} at byte {error.start}). Convert it.'
        ) from None
    except json.JSONDecodeError as error:
        raise SetupError(f'{file} is not JSON: {error}.') from None
    parts = ('images', 'annotations', 'categories')
    missing = [part for part in parts if not (isinstance(content, dict) and content.get(part))]
    if missing:
        raise SetupError(
            f'{file} is not in the form of COCO, or empty: it has no {" and no ".join(missing)}.'
        )
    return content


def find_voc(folder: Path, classes: Sequence[str] | None = None) -> OwnData:
    """Data in the form of Pascal VOC.

    Raises:
        SetupError: a file is not there, or the classes differ.
    """
    lists = {
        'train': _one_of(folder, ('ImageSets/Main/train.txt', 'ImageSets/Main/trainval.txt')),
        'val': _one_of(folder, ('ImageSets/Main/val.txt', 'ImageSets/Main/test.txt')),
    }
    names = {split: file.read_text().split() for split, file in lists.items()}
    for split, file in lists.items():
        if not names[split]:
            raise SetupError(f'{file} is empty; it should name an image in each line.')
        for part, ending in (('JPEGImages', 'jpg'), ('Annotations', 'xml')):
            if not (path := folder / part / f'{names[split][0]}.{ending}').is_file():
                raise SetupError(f'{path}, which {file} asks for, is not there.')
    found: set[str] = set()
    for name in names['train']:
        file = folder / 'Annotations' / f'{name}.xml'
        if problems := voc_file(file, None)[0]:
            raise SetupError(f'{file}: {problems[0]}. Mend it, or remove it from {lists["train"]}.')
        found |= {item.findtext('name', '') for item in ElementTree.parse(file).iter('object')}
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


def find_masks(folder: Path, classes: Sequence[str] | None = None) -> OwnData:
    """Images, and a picture of labels beside each: for segmentors.

    Args:
        folder: of the data.
        classes: names in the order of the labels; those of ``classes.txt``, or numbers, where left
            out.

    Raises:
        SetupError: a folder or the label of an image is not there, images have several endings, or
            there are more labels than names.
    """
    labels = next((name for name in LABEL_FOLDERS if (folder / name / 'train').is_dir()), None)
    val = next((name for name in ('val', 'test') if (folder / 'images' / name).is_dir()), None)
    if labels is None or val is None or not (folder / 'images/train').is_dir():
        raise SetupError(f'{folder} has not the form of data for segmentors. It is: {MASK_FORM}.')
    suffixes = {split: _image_suffix(folder, split, labels) for split in ('train', val)}
    listed = folder / 'classes.txt'
    if classes is None and listed.is_file():
        classes = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
    count = 1 + _highest_label(sorted((folder / labels / 'train').glob('*.png')))
    if classes is None:
        classes = [f'class {index}' for index in range(count)]
    if count > len(classes):
        raise SetupError(
            f'{folder / labels} holds the label {count - 1}, and there are {len(classes)} names of '
            f'classes: {", ".join(classes)}. Name them all, in the order of the labels '
            '(--classes, or classes.txt); 255 is ignored.'
        )
    colours = colormaps['tab20'].colors
    palette = [[round(255 * part) for part in colours[i % 20]] for i in range(len(classes))]
    train, held_out = (
        dict(
            type='BaseSegDataset',
            data_root=f'{folder}/',
            img_suffix=suffixes[split],
            seg_map_suffix='.png',
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'{labels}/{split}'),
            metainfo=dict(classes=tuple(classes), palette=palette),
        )
        for split in ('train', val)
    )
    evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
    return OwnData(tuple(classes), train, held_out | dict(test_mode=True), evaluator)


def _image_suffix(folder: Path, split: str, labels: str) -> str:
    """The ending of the images of a split, each of which has to have a label picture."""
    images = [path for path in sorted((folder / 'images' / split).iterdir()) if path.is_file()]
    suffixes = {path.suffix for path in images}
    if len(suffixes) != 1:
        found = f'several endings: {", ".join(sorted(suffixes))}' if suffixes else 'no images'
        raise SetupError(
            f'{folder / "images" / split} holds {found}. Keep images of one kind there.'
        )
    bare = [path for path in images if not (folder / labels / split / f'{path.stem}.png').is_file()]
    if bare:
        raise SetupError(
            f'{len(bare)} of {len(images)} images of {folder / "images" / split} have no label '
            f'picture (first: {folder / labels / split / bare[0].stem}.png). Add them, or take the '
            'images out.'
        )
    return suffixes.pop()


def _highest_label(files: Sequence[Path]) -> int:
    """The highest label of some pictures, which are looked at here and there; -1 of none."""
    highest = -1
    for file in files[:: max(1, len(files) // SAMPLE)]:
        with Image.open(file) as picture:
            values = np.unique(np.asarray(picture)).astype(int)
        highest = max([highest, *values[values != IGNORED].tolist()])
    return highest


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
