"""What is wrong with the annotations of data sets, before anything is trained on them.

The hosts drop boxes that they cannot use, and labels show what they hold only when a loss breaks.
Files of annotations are read whole; of pictures only the heads, and of many a sample.
"""

from __future__ import annotations

import json
import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image, UnidentifiedImageError

from .configs import leaf_datasets

SAMPLE = 64  # pictures whose heads, or labels, are looked at
MANY = 20_000  # files: of more only a sample is looked for one by one
TINY = 8  # pixels: a picture with a shorter side holds nothing to detect
IGNORED = 255
MEND = 'Mend these annotations, or remove them.'


class Found(NamedTuple):
    """Something that is wrong with a data set.

    Attributes:
        item: the dataloader that it belongs to.
        problem: in a sentence, with a count and the first file.
        way_out: what to do about it.
        grave: whether the training would break, or learn what is wrong.
    """

    item: str
    problem: str
    way_out: str = MEND
    grave: bool = False

    def __str__(self) -> str:
        return f'{self.problem} {self.way_out}'


def examine_annotations(config: Config, parts: Sequence[str]) -> list[Found]:
    """Look at the annotations of some dataloaders.

    Of data sets whose form is not COCO's, VOC's or mmseg's nothing is said.

    Args:
        config: of a training.
        parts: names of dataloaders, such as ``('train_dataloader', 'val_dataloader')``.
    """
    found: list[Found] = []
    learns = {'train_dataloader'} if config.get('model', {}).get('own_loss', True) else set()
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        for part in parts:
            for leaf in leaf_datasets(config[part]['dataset']) if config.get(part) else ():
                for each in _examine(leaf, part, ignored_labels(config), learns):
                    if each not in found:
                        found.append(each)
    return found


def ignored_labels(config: Config) -> set[int]:
    """The labels that heads of a config leave out, besides 255."""
    listed = {IGNORED}

    def walk(part: Any) -> None:
        if isinstance(part, Mapping):
            if isinstance(part.get('ignore_index'), int):
                listed.add(part['ignore_index'])
            for each in part.values():
                walk(each)
        elif isinstance(part, list | tuple):
            for each in part:
                walk(each)

    walk(config.to_dict().get('model'))
    return listed


def _examine(leaf: ConfigDict, part: str, ignored: set[int], learns: set[str]) -> Iterator[Found]:
    from mmdet.datasets import CocoDataset, XMLDataset  # slow to import, and prints

    kind = leaf.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)) or _is_remote(leaf):
        return
    loader = kind.load_data_list
    segments = getattr(kind, 'get_label_map', None) is not None
    if loader not in (CocoDataset.load_data_list, XMLDataset.load_data_list) and not segments:
        return
    try:
        dataset = DATASETS.build(leaf.to_dict() | dict(lazy_init=True, pipeline=[]))
    except TypeError:
        return  # wrong arguments, of which the training tells, or none to be made without data
    trains = part in learns and not dataset.test_mode
    if loader is CocoDataset.load_data_list:
        yield from _coco(dataset, part, trains)
    elif loader is XMLDataset.load_data_list:
        yield from _voc(dataset, part, trains)
    else:
        yield from _labels(dataset, part, ignored)


def _is_remote(leaf: ConfigDict) -> bool:
    return bool(leaf.get('backend_args')) or '://' in str(leaf.get('data_root') or '')


# -- COCO --------------------------------------------------------------------------------------


def _coco(dataset: Any, part: str, trains: bool) -> Iterator[Found]:
    file = Path(dataset.ann_file)
    if not file.is_file():
        text = f'The `ann_file` of {part} is {dataset.ann_file!r}, which is no file.'
        yield Found(part, text, 'Name the file of its annotations.', grave=True)
        return
    content, problem = _read_json(file)
    if problem:
        yield Found(part, problem, 'Make the file again, or name another `ann_file`.', grave=True)
        return
    images, objects = content['images'], content.get('annotations') or []
    wrong = [*_entries(images, ('id', 'file_name', 'width', 'height'), 'image')]
    wrong += _entries(objects, ('id', 'image_id', 'category_id', 'bbox', 'area'), 'annotation')
    wrong += _twice(images, 'image') + _twice(objects, 'annotation')
    for text in wrong:
        yield Found(part, f'{file}: {text}', grave=True)
    if wrong:
        return
    folder = dataset.data_prefix.get('img') or ''
    yield from _pictures([os.path.join(folder, each['file_name']) for each in images], part)
    yield from _sizes(
        {os.path.join(folder, e['file_name']): (e['width'], e['height']) for e in images}, part
    )
    names = dataset.metainfo.get('classes') or ()
    yield from _unused(content, names, file, part, trains)


def _read_json(file: Path) -> tuple[dict[str, Any], str]:
    """The content of COCO annotations, or what is wrong with them."""
    try:
        content = json.loads(file.read_bytes().decode('utf-8'))
    except UnicodeDecodeError as error:
        return {}, f'{file} is not text in UTF-8 ({error.reason} at byte {error.start}).'
    except json.JSONDecodeError as error:
        what = 'is empty (0 bytes)' if not file.stat().st_size else f'is not JSON: {error}'
        return {}, f'{file} {what}.'
    if not isinstance(content, dict):
        return {}, f'{file} holds a {type(content).__name__}, not annotations in the form of COCO.'
    missing = [f'`{key}`' for key in ('images', 'categories') if not content.get(key)]
    if missing:
        return {}, f'{file} has no {" and no ".join(missing)}, or empty ones.'
    nameless = [each for each in content['categories'] if not {'id', 'name'} <= set(each)]
    return content, f'{file}: a category has no `id` or `name`: {nameless[0]}.' if nameless else ''


def _entries(entries: Sequence[Any], keys: Sequence[str], kind: str) -> list[str]:
    """What entries lack that the host reads."""
    found = []
    for key in keys:
        lacking = [each for each in entries if not isinstance(each, dict) or key not in each]
        if lacking:
            found.append(
                f'{len(lacking)} {kind}s have no `{key}`, the first is {_brief(lacking[0])}.'
            )
    if kind == 'annotation' and not found:
        odd = [each for each in entries if not _is_box(each['bbox'])]
        if odd:
            found.append(
                f'{len(odd)} boxes are not four numbers (x, y, width, height), the first is '
                f'{odd[0]["bbox"]!r} of annotation {odd[0]["id"]}.'
            )
    return found


def _brief(entry: Any) -> str:
    text = str(entry)
    return text if len(text) <= 120 else f'{text[:117]}...'


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in box)
    )


def _twice(entries: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Which ids occur more than once: of images the boxes of one would be shown with another."""
    counts = Counter(str(each['id']) for each in entries if 'id' in each)
    twice = [number for number, count in counts.items() if count > 1]
    return [
        f'{len(twice)} ids of {kind}s are there more than once, the first is {twice[0]}. Number '
        f'the {kind}s anew.'
    ] if twice else []  # fmt: skip


def _unused(
    content: Mapping[str, Any], names: Sequence[str], file: Path, part: str, trains: bool
) -> Iterator[Found]:
    """The boxes that the host leaves out, and why."""
    sizes = {e['id']: (e['width'], e['height'], e['file_name']) for e in content['images']}
    categories = {each['id']: each['name'] for each in content['categories']}
    objects = content.get('annotations') or []
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    used = 0
    for each in objects:
        reason = _reason(each, sizes, categories)
        if reason:
            reasons[reason] += 1
            image = sizes.get(each['image_id'], ('', '', f'image id {each["image_id"]}'))[2]
            first.setdefault(reason, f'{image}, annotation {each["id"]}')
        elif categories[each['category_id']] in names and not each.get('iscrowd'):
            used += 1
    if reasons:
        listed = '; '.join(f'{n} {why} (first: {first[why]})' for why, n in reasons.most_common())
        total = sum(reasons.values())
        yield Found(part, f'{file}: {total} of {len(objects)} boxes are left out: {listed}.')
    tiny = [e for e in content['images'] if min(e['width'], e['height']) < TINY]
    if tiny:
        yield Found(
            part,
            f'{file}: {len(tiny)} of {len(sizes)} images have a side below {TINY} pixels (first: '
            f'{tiny[0]["file_name"]}, {tiny[0]["width"]} x {tiny[0]["height"]}).',
            'Remove them, or set `filter_cfg=dict(min_size=32)` of the data set.',
        )
    if trains and not used:
        yield Found(
            part,
            f'{file} has no object to learn from: {len(objects)} boxes, none of them usable and of '
            f'the classes {", ".join(map(repr, names[:5]))}{", ..." if len(names) > 5 else ""}.',
            'Look at the annotations, and at the names in `metainfo=dict(classes=...)`.',
            grave=True,
        )


def _reason(
    each: Mapping[str, Any],
    sizes: Mapping[Any, tuple[float, float, str]],
    categories: Mapping[Any, str],
) -> str:
    """Why the host leaves a box out; empty where it does not."""
    x, y, width, height = each['bbox']
    if each['image_id'] not in sizes:
        return 'of an image id that no image has'
    if not all(math.isfinite(number) for number in each['bbox']):
        return 'with a coordinate that is not finite'
    if width < 0 or height < 0:
        return 'of negative width or height'
    if width < 1 or height < 1:
        return 'of a width or height below 1 pixel'
    across, down, _ = sizes[each['image_id']]
    if min(x + width, across) <= max(x, 0) or min(y + height, down) <= max(y, 0):
        return 'outside of their image'
    if not each['area'] > 0:
        return 'of no area'
    if each['category_id'] not in categories:
        return f'of the category id {each["category_id"]}, which no category has'
    return ''


# -- VOC ---------------------------------------------------------------------------------------


def _voc(dataset: Any, part: str, trains: bool) -> Iterator[Found]:
    names = Path(dataset.ann_file).read_text(encoding='utf-8').split()
    if not names:
        yield Found(part, f'{dataset.ann_file} names no image.', 'Name one in each line.', True)
        return
    root = dataset.sub_data_root
    yield from _pictures([os.path.join(root, dataset.img_subdir, f'{n}.jpg') for n in names], part)
    chosen = _spread(names, MANY)
    wrong, dropped = Counter[str](), Counter[str]()
    first: dict[str, str] = {}
    used = 0
    classes = dataset.metainfo.get('classes') or ()
    for name in chosen:
        file = Path(root, dataset.ann_subdir, f'{name}.xml')
        problems, unused, usable = voc_file(file, classes)
        used += usable
        for counter, texts in ((wrong, problems), (dropped, unused)):
            counter.update(texts)
            for text in texts:
                first.setdefault(text, str(file))
    for counter, grave in ((wrong, True), (dropped, False)):
        for text, count in counter.most_common(4):
            yield Found(
                part, f'{count} {text} (first: {first[text]}){_of(chosen, names)}.', MEND, grave
            )
    if trains and not used and not wrong:
        text = f'{dataset.ann_file} names no image with an object of the classes.'
        yield Found(part, text, 'Look at `metainfo=dict(classes=...)`.', True)


def voc_file(file: Path, classes: Collection[str] | None) -> tuple[list[str], list[str], int]:
    """Look at one file of VOC annotations.

    Args:
        file: of annotations.
        classes: that are known; None for all.

    Returns:
        what breaks a training, what the host leaves out, and the number of usable objects.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except FileNotFoundError:
        return ['annotation files are not there'], [], 0
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        return [f'annotation files are not XML: {error}'], [], 0
    wrong, dropped, usable = [], [], 0
    for item in root.iter('object'):
        name = (item.findtext('name') or '').strip()
        box = item.find('bndbox')
        texts = [
            box.findtext(k) if box is not None else None for k in ('xmin', 'ymin', 'xmax', 'ymax')
        ]
        try:
            x1, y1, x2, y2 = (float(text or 'nothing') for text in texts)
        except ValueError:
            wrong.append(f'boxes are not four numbers ({", ".join(map(str, texts))})')
            continue
        if not name:
            wrong.append('objects have no name')
        elif not all(map(math.isfinite, (x1, y1, x2, y2))):
            wrong.append('boxes have a coordinate that is not finite')
        elif classes is not None and name not in classes:
            dropped.append(
                f'objects of the class {name!r}, which is none of those chosen, are left out'
            )
        elif x2 <= x1 or y2 <= y1:
            dropped.append('boxes have no width or height')
        else:
            usable += 1
    return wrong, dropped, usable


# -- label pictures ----------------------------------------------------------------------------


def _labels(dataset: Any, part: str, ignored: set[int]) -> Iterator[Found]:
    data = dataset.load_data_list()
    if not data:
        where = dataset.ann_file or dataset.data_prefix.get('img_path')
        text = f'{where} names no image (ending {dataset.img_suffix}).'
        yield Found(part, text, 'Look at `data_prefix`, `img_suffix` and `ann_file`.', True)
        return
    ignored = ignored | {dataset.ignore_index}
    yield from _pictures([each['img_path'] for each in data], part)
    labelled = [each for each in data if each.get('seg_map_path')]
    missing = [*_pictures([each['seg_map_path'] for each in labelled], part, 'label picture')]
    yield from missing
    if missing:
        return
    count = len(dataset.metainfo.get('classes') or ())
    sample = _spread(labelled, SAMPLE)
    problems: Counter[str] = Counter()
    first: dict[str, str] = {}
    for each in sample:
        problem = _label(each, count, ignored, dataset.reduce_zero_label)
        if problem:
            problems[problem] += 1
            first.setdefault(problem, each['seg_map_path'])
    for problem, number in problems.most_common(4):
        yield Found(
            part,
            f'{number} label pictures {problem} (first: {first[problem]}){_of(sample, labelled)}.',
            'A label picture is as large as its image and holds the index of a class in each '
            'pixel, 255 where it is ignored; `reduce_zero_label=True` takes 0 for ignored.',
            grave=True,
        )
    tiny = [e['img_path'] for e in sample if (s := _size(e['img_path'])) and min(s) < TINY]
    if tiny:
        yield Found(
            part,
            f'{len(tiny)} images have a side below {TINY} pixels (first: {tiny[0]})'
            f'{_of(sample, labelled)}.',
            'Remove them from the data.',
            grave=True,
        )


def _label(each: Mapping[str, Any], count: int, ignored: set[int], reduce: bool) -> str:
    """What is wrong with a label picture; empty where nothing is."""
    try:
        with Image.open(each['seg_map_path']) as picture:
            mode, size = picture.mode, picture.size
            values = np.asarray(picture) if mode in ('P', 'L', '1', 'I', 'I;16') else None
    except (UnidentifiedImageError, OSError):
        return 'cannot be read as pictures'
    if values is None:
        return f'have several channels ({mode})'
    if (own := _size(each['img_path'])) and own != size:
        return 'have another size than their images'
    if each.get('label_map'):
        return ''
    found = {int(v) for v in np.unique(values)}
    if reduce:
        found = {v - 1 for v in found - {0, IGNORED}}
    beyond = sorted(v for v in found - ignored if not 0 <= v < max(count, 1))
    return f'hold labels beyond the {count} classes, such as {beyond[0]}' if beyond else ''


# -- pictures ----------------------------------------------------------------------------------


def _pictures(paths: Sequence[str], part: str, noun: str = 'image') -> Iterator[Found]:
    """Which files are not there, or empty."""
    chosen = _spread(paths, MANY)
    missing, empty = [], []
    for path in chosen:
        try:
            if not os.stat(path).st_size:
                empty.append(path)
        except OSError:
            missing.append(path)
    for what, listed in (('are not there', missing), ('are empty (0 bytes)', empty)):
        if listed:
            yield Found(
                part,
                f'{len(listed)} of {len(chosen)} {noun}s {what} (first: {listed[0]}).',
                'Look at `data_root` and `data_prefix`, or remove them from the annotations.',
                grave=True,
            )


def _sizes(sizes: Mapping[str, tuple[int, int]], part: str) -> Iterator[Found]:
    """Whether images are as large as the annotations say, turned ones too."""
    chosen = _spread(list(sizes), SAMPLE)
    read = {path: _size(path) for path in chosen}
    broken = [path for path, size in read.items() if size is None and os.path.isfile(path)]
    if broken:
        text = f'{len(broken)} image files are no images (first: {broken[0]}){_of(chosen, sizes)}.'
        yield Found(part, text, 'Replace them, or remove them from the annotations.', True)
    other = [p for p, s in read.items() if s and tuple(sorted(s)) != tuple(sorted(sizes[p]))]
    if other:
        path = other[0]
        yield Found(
            part,
            f'{len(other)} images have another size than the annotations say (first: {path}, '
            f'{" x ".join(map(str, read[path]))}, not {" x ".join(map(str, sizes[path]))})'
            f'{_of(chosen, sizes)}: boxes would be cut or left out.',
            'Mend `width` and `height` in the annotations, or the images.',
        )


def _size(path: str) -> tuple[int, int] | None:
    """Width and height of an image, from its head; None where it cannot be read."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None


def _spread(items: Sequence[Any], most: int) -> Sequence[Any]:
    """At most so many of some items, evenly spread."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def _of(sample: Sequence[Any], every: Iterable[Any]) -> str:
    """That a sample was looked at, where it was one."""
    total = len(list(every))
    return '' if len(sample) == total else f', of {len(sample)} looked at, of {total}'
