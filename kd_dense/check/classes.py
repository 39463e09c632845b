"""Whether student, teachers and training set know the same classes, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..data_forms import category_names
from ..hosts import isolated_rng
from ..hosts.checkpoints import STUDENT, class_names
from ..hosts.configs import leaf_datasets
from ..pair import class_at, must_agree, other_classes
from ..teachers import Teacher
from ..views import view_class
from .built import Built
from .findings import WARNING, Section
from .weights import Checkpoints

TRAINING = 'training set'


def classes_of_data(config: Config, section: Section) -> tuple[str, ...] | None:
    """The classes of the training set; None if unknown. Annotations are read for categories alone.

    Parts that differ are told, and annotations in another order.
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
        section.tell(
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
        section.tell(
            item,
            problem=f'Labels would be called by wrong names: `metainfo` says that class {first} is '
            f'{names[first]!r}, and {file} numbers {class_at(numbered, first)} so (mmdet follows '
            'the order of its `categories`, and leaves out classes that are not there).',
            way_out='Give `metainfo=dict(classes=...)` the names and order of `categories`, or '
            'sort that list in the annotations (ids may stay).',
        )


def examine_classes(
    built: Built, data: Sequence[str] | None, read: Checkpoints, section: Section
) -> None:
    """Compare numbers and names of classes; those of the data are None where unknown."""
    section.columns = (STUDENT, *built.teachers, TRAINING)
    _numbers(built, data, section)
    section.summary = f'{len(data)}: {_brief(data)}' if data else 'names unknown'
    for name, teacher in built.teachers.items():
        item = built.item('names', name)
        # a teacher without checkpoint may know its classes from elsewhere, as stored ones do
        theirs = class_names(read[name]) if name in read else teacher.classes
        silent = name in read and theirs is None
        if data is not None and silent and _order_counts(built, name):
            section.tell(
                item,
                problem=f'The checkpoint of the {name} tells no class names: that their order is '
                'the same cannot be seen.',
                way_out='Compare the order by hand, or write the names into the checkpoint '
                "(`meta['dataset_meta'] = dict(classes=...)`).",
                mark=WARNING,
            )
            continue
        if data is None or theirs is None:
            where = "the teacher's checkpoint" if data else 'the training set'
            section.skipped(item, f'not compared: {where} tells none')
            continue
        cells = [_brief(theirs) if each == name else '' for each in built.teachers]
        if teacher.maps_classes:
            _by_name(item, teacher, data, theirs, section)
            continue
        found = other_classes(data, theirs)
        told = dict(problem=found.problem, way_out=found.way_out) if found else {}
        if found and not teacher.same_classes:
            told = _allowed(built, name, found.problem)
        section.tell(item, '', *cells, _brief(data), **told, classes=list(data))


def _by_name(
    item: str, teacher: Teacher, data: Sequence[str], theirs: Sequence[str], section: Section
) -> None:
    """Which of a teacher's classes is which of the training set's."""
    teacher.classes = tuple(theirs)
    with section.collect_errors(item):
        teacher.know_classes(data)
        found = getattr(teacher, 'class_map', None)
        if found is not None:
            shared = f'{len(found.names)} of {len(data)} by name: {", ".join(found.names)}'
            section.tell(item, '', shared, classes=list(found.names))


def _order_counts(built: Built, name: str) -> bool:
    """Whether the order of a teacher's classes counts."""
    return built.teachers[name].same_classes and bool(_reading_classes(built, name))


def _reading_classes(built: Built, name: str) -> list[str]:
    """The losses that compare a teacher's classes with the student's."""
    if built.student is None:
        return []
    view, losses = view_class(built.student), built.losses_of(name)
    return [f'losses.{n}' for n, x in losses.items() if 'num_classes' in must_agree(view, x)]


def _allowed(built: Built, name: str, problem: str) -> dict[str, str]:
    """What is said of a teacher that may know other classes: a warning where a loss reads them."""
    reading = _reading_classes(built, name)
    if not reading:
        return {}
    problem += f' `same_classes=False` allows it, but {", ".join(reading)} may compare one class '
    return dict(
        mark=WARNING,
        problem=problem + 'with another.',
        way_out='Use losses that read no classes, or a teacher of the same classes.',
    )


def _numbers(built: Built, data: Sequence[str] | None, section: Section) -> None:
    ours, *theirs = (
        (built.infos[role].num_classes or None) if role in built.infos else None
        for role in (STUDENT, *built.teachers)
    )
    given = data and len(data)
    problems = []
    if ours is not None and given is not None and ours != given:
        problems.append(f'The head of the student has {ours} classes, the training set {given}.')
    found = (each for name in built.teachers for each in built.differences(name))
    problems += [f'The {each}.' for each in found if each.what == 'num_classes']
    section.tell(
        'number',
        *('unknown' if number is None else str(number) for number in (ours, *theirs, given)),
        problem=' '.join(problems),
        way_out="Set `num_classes` of the student's head to what the data has, and use a teacher "
        'trained on the same classes (`same_classes=False` of the teacher allows others, for '
        'losses that read no classes).',
    )


def _brief(names: Sequence[str] | None) -> str:
    if names is None:
        return 'none'
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
