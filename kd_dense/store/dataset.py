"""Training images as the fixed views that a store knows."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import Config, ConfigDict
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..errors import SetupError
from ..hosts import seeded_rng
from ..hosts.configs import leaf_datasets, teachers_of
from ..registry import DATASETS, MMENGINE_DATASETS
from .kept import CANVAS, MARK
from .store import Store

FIELD = 'stored'  # of a data sample
KIND = 'kd_dense.StoredViews'
TEACHER = 'StoredTeacher'
EVERY = 8  # how many values of a picture there are to one that counts in its mark
WAY_OUT = 'Resize, crop and flip in the pipeline, one picture at a time.'
# transforms that need other pictures, or have random numbers or a memory of their own
MIXING = frozenset(
    [
        *('Mosaic', 'MixUp', 'CopyPaste', 'CachedMosaic', 'CachedMixUp', 'YOLOXMixUp', 'Mosaic9'),
        *('RandomMosaic', 'Albu', 'AlbuTransform'),
    ]
)


@DATASETS.register_module()
class StoredViews:
    """A data set that shows its pictures in the views of a store, with what the store holds.

    Each time a picture is asked for, one of its K views is drawn. The pipeline runs under the seed
    of that view, and a checksum of what comes out is compared with the one that was noted when the
    teacher saw it. ``kd-dense train`` puts it around the training set of a config whose teacher is
    stored.

    Args:
        dataset: config of the data set, wrappers such as ``RepeatDataset`` included.
        path: of the store.

    Raises:
        FileNotFoundError: there is no such store.
        SetupError: the store is of other pictures, of another pipeline, or cannot be of this one.
    """

    def __init__(self, dataset: Mapping[str, Any], path: str) -> None:
        self.store = Store(path)
        self.dataset = MMENGINE_DATASETS.build(dataset)
        self.check(dataset)
        for leaf in leaves(self.dataset):
            leaf.pipeline = FromStore(SeededPipeline.of(leaf, self.store.manifest.seed), self.store)

    def check(self, config: Mapping[str, Any]) -> None:
        """Compare with what the store was written of.

        Args:
            config: of the data set.

        Raises:
            SetupError: it was written of something else.
        """
        check_pipelines(self.dataset)
        folder, manifest = self.store.folder, self.store.manifest
        if pipelines_of(config) != manifest.pipelines:
            raise SetupError(
                f'The store {folder} was written with another pipeline of the training images. '
                'Take the pipeline back that it was written with, or write the store anew: '
                'kd-dense store-teacher CONFIG --to FOLDER'
            )

    @property
    def metainfo(self) -> dict[str, Any]:
        """That of the data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations.

        Raises:
            SetupError: a picture is not in the store.
        """
        self.dataset.full_init()
        for name, _, _ in pictures(self.dataset):
            if name not in self.store.numbers:
                raise SetupError(
                    f'The store {self.store.folder} does not hold {name} of the training images. '
                    'Write one of these images: kd-dense store-teacher CONFIG --to FOLDER'
                )

    def get_data_info(self, index: int) -> dict[str, Any]:
        """What the annotations tell of a picture."""
        return self.dataset.get_data_info(index)

    def get_cat_ids(self, index: int) -> list[int]:
        """The classes in a picture."""
        return self.dataset.get_cat_ids(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[index]


class SeededPipeline:
    """A pipeline that gives the same picture for the same view.

    Args:
        pipeline: of a data set.
        root: its ``data_root``, which names of pictures are relative to.
        seed: that the seeds of views are made of.
    """

    def __init__(self, pipeline: Any, root: str, seed: int) -> None:
        self.pipeline = pipeline
        self.root = root
        self.seed = seed

    @classmethod
    def of(cls, dataset: Any, seed: int) -> SeededPipeline:
        """That of a data set."""
        return cls(dataset.pipeline, root_of(dataset), seed)

    def name(self, info: Mapping[str, Any]) -> str:
        """What a picture is called in stores: where it lies in its data set."""
        return name_of(info, self.root)

    def show(self, info: dict[str, Any], view: int) -> dict[str, Any] | None:
        """A view of a picture; None where the pipeline drops it.

        Args:
            info: what the annotations tell of it.
            view: 0 to K - 1.
        """
        text = f'{self.seed}/{self.name(info)}/{view}'
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'little')
        with seeded_rng(seed):
            return self.pipeline(info)


class FromStore:
    """In a data set's pipeline's place: a view, with its record on the data sample."""

    def __init__(self, seeded: SeededPipeline, store: Store) -> None:
        self.seeded = seeded
        self.store = store

    def __call__(self, info: dict[str, Any]) -> dict[str, Any] | None:
        name = self.seeded.name(info)
        view = int(np.random.randint(self.store.manifest.views))
        shown = self.seeded.show(info, view)
        if shown is not None:
            record = self.store.record(name, view)
            shown['data_samples'].set_field(_answer(shown, record, f'{name}, view {view}'), FIELD)
        return shown


def _answer(shown: Mapping[str, Any], record: dict[str, Tensor], what: str) -> BaseDataElement:
    """A record as a data sample carries it; with the marks that differ, for the teacher to tell."""
    answer = BaseDataElement(metainfo=dict(what=what))
    mark = record.pop(MARK)
    both = zip(WORDS, marks_of(shown), mark.tolist(), strict=True)
    differing = [word for word, ours, theirs in both if ours != theirs]
    answer.set_metainfo(dict(differs=differing, canvas=tuple(record.pop(CANVAS).tolist())))
    for key, value in record.items():
        answer.set_field(value, key)
    return answer


# -- what a view is known by -----------------------------------------------------------------------

WORDS = ('its pixels', 'its size', 'its boxes')


def marks_of(shown: Mapping[str, Any]) -> list[int]:
    """Checksums of a view: of every 8th value of the picture, of its size, of its boxes."""
    picture, sample = shown['inputs'], shown['data_samples']
    values = picture.reshape(-1)[::EVERY].contiguous()
    size = repr((tuple(picture.shape), str(picture.dtype), tuple(sample.img_shape)))
    instances = sample.get('gt_instances')
    boxes = b''
    if instances is not None and 'bboxes' in instances:
        boxes = get_box_tensor(instances.bboxes).float().numpy().tobytes()
        boxes += instances.labels.numpy().tobytes()
    return [zlib.crc32(each) for each in (values.numpy().tobytes(), size.encode(), boxes)]


def pictures(dataset: Any) -> Iterator[tuple[str, Any, int]]:
    """The pictures of a data set: name, the data set inside wrappers, and the index in that."""
    for leaf in leaves(dataset):
        root = root_of(leaf)
        for index in range(len(leaf)):
            yield name_of(leaf.get_data_info(index), root), leaf, index


def leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers."""
    inside = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for each in inside:
        if each is None:
            yield dataset
        else:
            yield from leaves(each)


def root_of(dataset: Any) -> str:
    """The folder that names of a data set's pictures are relative to; empty where it has none."""
    return str(getattr(dataset, 'data_root', None) or '')


def name_of(info: Mapping[str, Any], root: str) -> str:
    """What a picture is called in stores.

    Args:
        info: what the annotations tell of it.
        root: see :func:`root_of`.
    """
    path = str(info['img_path'])
    return Path(os.path.relpath(path, root)).as_posix() if root else path


def pipelines_of(config: Mapping[str, Any]) -> list[Any]:
    """The pipelines in a data set's config, as JSON keeps them."""
    found = [leaf.get('pipeline') for leaf in leaf_datasets(ConfigDict(config))]
    return _plain(found)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def check_pipelines(dataset: Any) -> None:
    """Check that a view depends on its picture and its seed alone.

    Args:
        dataset: built.

    Raises:
        SetupError: a transform mixes pictures, or has a memory.
    """
    if type(dataset).__name__ == 'MultiImageMixDataset':
        raise SetupError(
            'A MultiImageMixDataset makes one picture of several, and a store keeps what the '
            f'teacher said of single ones. {WAY_OUT}'
        )
    inner = [each for each in leaves(dataset) if each is not dataset]
    for each in inner:
        check_pipelines(each)
    for transform in _transforms(getattr(dataset, 'pipeline', None)) if not inner else ():
        kind = type(transform).__name__
        if kind in MIXING or hasattr(transform, 'results_cache'):
            raise SetupError(
                f'{kind} in the pipeline of the training images needs other pictures, or draws '
                'random numbers of its own, and a store keeps views that come back the same. '
                f'{WAY_OUT}'
            )


def _transforms(pipeline: Any) -> Iterator[Any]:
    """The transforms of a pipeline, also inside others."""
    for each in _inside(pipeline):
        yield each
        yield from _transforms(each)


def _inside(transform: Any) -> Sequence[Any]:
    found = transform
    if not isinstance(transform, list | tuple):
        found = getattr(transform, 'transforms', ())
    found = found if isinstance(found, list | tuple) else getattr(found, 'transforms', ())
    return list(found)


# -- configs ---------------------------------------------------------------------------------------


def with_stored_views(config: Config) -> Config:
    """Put the views of a store around the training set, where a teacher is stored.

    Args:
        config: of a training; is changed, and returned.

    Raises:
        SetupError: several teachers are stored, in different stores.
    """
    paths = {
        str(teacher.get('path'))
        for teacher in teachers_of(config.model).values()
        if isinstance(teacher, Mapping) and str(teacher.get('type')).split('.')[-1] == TEACHER
    }
    if len(paths) > 1:
        raise SetupError(
            f'The teachers are in different stores, {", ".join(sorted(paths))}, whose views are '
            'not the same. Let one of them run, or store an Ensemble.'
        )
    loader = config.get('train_dataloader')
    if paths and loader and loader['dataset'].get('type') != KIND:
        loader['dataset'] = ConfigDict(type=KIND, dataset=loader['dataset'], path=paths.pop())
    return config


def read_from_store(config: Config, path: str) -> None:
    """Let the teacher of a training be read from a store.

    Args:
        config: of a training; is changed.
        path: of the store.

    Raises:
        SetupError: there is no teacher, or there are several.
    """
    teachers = teachers_of(config.model)
    if len(teachers) != 1:
        raise SetupError(
            f'--stored is for a training with one teacher; found {", ".join(teachers) or "none"}. '
            "Of several, write the stored one into the config: `dict(type='kd_dense.StoredTeacher',"
            ' path=...)`.'
        )
    ((name, teacher),) = teachers.items()
    stored = ConfigDict(type=f'kd_dense.{TEACHER}', path=path)
    if 'same_classes' in teacher:
        stored.same_classes = teacher['same_classes']
    if config.model.get('teacher') is not None:
        config.model.teacher = stored
    else:
        config.model.teachers[name] = stored
