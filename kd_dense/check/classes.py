"""Whether student, teacher and training set know the same classes, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..data_forms import category_names
from ..hosts import isolated_rng
from ..hosts.checkpoints import class_names
from ..hosts.configs import leaf_datasets
from ..pair import differences, must_agree
from ..views import view_class
from .parts import Hosts, Parts
from .report import Section

MOST = 4  # differing classes that are named
TRAINING = 'training set'


def classes_of_data(config: Config, section: Section) -> tuple[str, ...] | None:
    """The classes of the training set; None if unknown. Annotations are read for categories alone.

    Args:
        config: of the training.
        section: where to tell of parts that differ, and of annotations in another order.
    """
    found = []
    tried = Section('')  # a data set that cannot be made so may well train
    loaders = {TRAINING: config.train_dataloader, 'validation set': config.get('val_dataloader')}
    for item, loader in loaders.items():
        for leaf in leaf_datasets(loader.dataset) if loader else ():
            with tried.collect_errors(item), isolated_rng():
                dataset = DATASETS.build(leaf.to_dict() | dict(lazy_init=True))
                _in_order(dataset, section, item)
                if item == TRAINING:
                    found.append(dataset.metainfo.get('classes'))
    if len(set(map(str, found))) > 1:
        section.wrong(
            TRAINING,
            problem=f'Its parts have other classes: {"; ".join(map(_brief, found))}.',
            way_out='Give each of them the same `metainfo=dict(classes=...)`.',
        )
    names = found[0] if found else None
    return (names,) if isinstance(names, str) else names and tuple(names)


def _in_order(dataset: BaseDataset, section: Section, item: str) -> None:
    """Whether COCO annotations number the classes as the data set names them.

    mmdet numbers them in the order of the annotations' categories, whatever their order in
    ``metainfo``, and leaves out those that are not there.
    """
    from mmdet.datasets import CocoDataset  # prints when imported; stdout is the report's

    names = dataset.metainfo.get('classes')
    of_coco = isinstance(dataset, CocoDataset)
    if not of_coco or type(dataset).load_data_list is not CocoDataset.load_data_list:
        return
    file = Path(dataset.ann_file)
    categories = category_names(file) if file.is_file() else None
    if categories is None or isinstance(names, str):
        return
    numbered = tuple(name for name in categories if name in names)
    if not numbered or numbered != tuple(names)[: len(numbered)]:
        first = next(i for i, name in enumerate(names) if numbered[i : i + 1] != (name,))
        section.wrong(
            item,
            problem=f'Labels would be called by wrong names: `metainfo` says that class {first} is '
            f'{names[first]!r}, and {file} numbers {_at(numbered, first)} so (mmdet follows the '
            'order of its `categories`, and leaves out classes that are not there).',
            way_out='Give `metainfo=dict(classes=...)` the names and order of `categories`, or '
            'sort that list in the annotations (ids may stay).',
        )


def examine_classes(
    parts: Parts,
    hosts: Hosts,
    data: Sequence[str] | None,
    checkpoint: dict[str, Any] | None,
    section: Section,
) -> None:
    """Compare numbers and names of classes.

    Args:
        parts, hosts: the models, and what they tell of themselves.
        data: classes of the training set; None where unknown.
        checkpoint: the teacher's.
        section: where to tell.
    """
    section.columns = ('student', 'teacher', 'training set')
    _numbers(parts, hosts, data, section)
    theirs = class_names(checkpoint) if checkpoint else None
    if data is None or theirs is None:
        where = "the teacher's checkpoint" if data else 'the training set'
        section.skipped('names', f'not compared: {where} tells none')
        known = hosts.student.num_classes if hosts.student else 0
        section.summary = f'{known or "number unknown"}; names unknown'
        return
    shown = ('', _brief(theirs), _brief(data))
    differing = [
        i for i in range(max(len(data), len(theirs))) if data[i : i + 1] != theirs[i : i + 1]
    ]
    section.summary = f'{len(data)}: {_brief(data)}'
    if not differing:
        section.ok('names', *shown, classes=list(data))
        return
    problem = _named(data, theirs, differing)
    if parts.teacher.same_classes:
        section.wrong(
            'names',
            *shown,
            problem=problem,
            way_out="Bring the dataset's classes into the teacher's order (its "
            '`metainfo=dict(classes=...)`, which `--classes` sets for `--data`; of COCO '
            'annotations the list `categories` too, by which mmdet numbers them), or use a teacher '
            'trained on them; `model.teacher.same_classes=False` allows the difference for losses '
            'that read no classes.',
            differing=differing,
        )
        return
    reading = [
        name
        for name, loss in parts.losses.items()
        if 'num_classes' in must_agree(view_class(parts.student), loss)
    ]
    if reading:
        section.warning(
            'names',
            *shown,
            problem=f'{problem} `same_classes=False` allows it, but '
            f'{", ".join(f"losses.{name}" for name in reading)} may compare one class with '
            'another.',
            way_out='Use losses that read no classes, or a teacher of the same classes.',
            differing=differing,
        )
    else:
        section.ok('names', *shown, differing=differing)


def _numbers(parts: Parts, hosts: Hosts, data: Sequence[str] | None, section: Section) -> None:
    ours, theirs = ((host and host.num_classes) or None for host in (hosts.student, hosts.teacher))
    given = data and len(data)
    shown = tuple('unknown' if number is None else str(number) for number in (ours, theirs, given))
    problems = []
    if ours is not None and given is not None and ours != given:
        problems.append(f'The head of the student has {ours} classes, the training set {given}.')
    if hosts.student and hosts.teacher:
        found = differences(parts.student, hosts.teacher, parts.losses, parts.teacher.same_classes)
        problems += [f'The {each}.' for each in found if each.what == 'num_classes']
    if problems:
        section.wrong(
            'number',
            *shown,
            problem=' '.join(problems),
            way_out="Set `num_classes` of the student's head to what the data has, and use a "
            'teacher trained on the same classes (`model.teacher.same_classes=False` allows '
            'others, for losses that read no classes).',
        )
    else:
        section.ok('number', *shown)


def _named(data: Sequence[str], theirs: Sequence[str], differing: list[int]) -> str:
    """What differs, class by class."""
    shuffled = sorted(data) == sorted(theirs)
    pairs = [
        f'{i} is {_at(theirs, i)} for the teacher and {_at(data, i)} in the training set'
        for i in differing[:MOST]
    ]
    more = f', and {len(differing) - MOST} more' if len(differing) > MOST else ''
    return (
        f'{"The same classes in another order" if shuffled else "Other classes"}: class '
        f'{"; ".join(pairs)}{more}.'
    )


def _at(names: Sequence[str], index: int) -> str:
    return repr(names[index]) if index < len(names) else 'missing'


def _brief(names: Sequence[str] | None) -> str:
    if names is None:
        return 'none'
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
