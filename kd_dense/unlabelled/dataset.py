"""A labelled data set with unlabelled images beside it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.dataset import BaseDataset
from mmengine.registry import TRANSFORMS

from ..errors import SetupError
from ..hosts.configs import leaf_datasets
from ..registry import DATASETS, MMENGINE_DATASETS
from .parts import IGNORED, MARK

SUFFIXES = frozenset(['.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm'])
MIXES = 'MultiImageMixDataset'  # has a pipeline of its own
UNLABELLED = 'kd_dense.UnlabelledImages'


@DATASETS.register_module()
class UnlabelledImages(BaseDataset):
    """Images of which nothing is known.

    Args:
        folder: of images, with its folders; empty for those of ``images_of``.
        images_of: configs of data sets whose images are taken, without their annotations.
        but_of: configs of data sets whose images are left out of these.
        kwargs: of mmengine's ``BaseDataset``: the pipeline, for one.

    Raises:
        FileNotFoundError: there is no such folder.
        SetupError: there are no images.
    """

    def __init__(
        self,
        folder: str = '',
        images_of: Sequence[Mapping[str, Any]] = (),
        but_of: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        self.folder = folder
        self.images_of = images_of
        self.but_of = but_of
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """The images by path, as data sets of mmdet and mmseg list theirs, without an object."""
        if self.folder:
            found = [str(path) for path in images_in(self.folder)]
        else:
            left_out = set(_paths(self.but_of))
            found = [path for path in dict.fromkeys(_paths(self.images_of)) if path not in left_out]
        if not found:
            raise SetupError(
                'There are no unlabelled images: the labelled ones are all that the data set has. '
                'Let `indices` of the data set choose those with labels, or name a folder of '
                'others (--unlabelled FOLDER).'
            )
        return [
            dict(img_path=path, img_id=f'unlabelled/{number}', instances=[], seg_fields=[])
            for number, path in enumerate(found)
        ]


@DATASETS.register_module()
class WithUnlabelled:
    """A labelled data set, as it is, and behind its end unlabelled images.

    Its length is that of the labelled images, so any sampler goes round these;
    :class:`~kd_dense.unlabelled.BesideLabelled` draws the others. They go through the pipeline of
    the labelled ones, in which what reads annotations finds none, and come out marked.

    Args:
        dataset: config of the labelled data set, with wrappers.
        unlabelled: a folder of images; None for the images that ``indices`` of the labelled data
            sets leave out; or the config of a data set, whose annotations are not read.

    Raises:
        FileNotFoundError: there is no such folder.
        SetupError: there are no unlabelled images.
    """

    def __init__(
        self, dataset: Mapping[str, Any], unlabelled: str | Mapping[str, Any] | None = None
    ) -> None:
        beside = unlabelled_like(dataset, _source(dataset, unlabelled))
        self.dataset = MMENGINE_DATASETS.build(dataset)
        self.unlabelled = MMENGINE_DATASETS.build(beside)

    @property
    def metainfo(self) -> dict[str, Any]:
        """That of the labelled data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations of the labelled images, and find the others."""
        self.dataset.full_init()
        self.unlabelled.full_init()

    def get_data_info(self, index: int) -> dict[str, Any]:
        """What is known of an image."""
        if index < len(self):
            return self.dataset.get_data_info(index)
        return self.unlabelled.get_data_info(index - len(self))

    def get_cat_ids(self, index: int) -> list[int]:
        """The classes in a labelled image."""
        return self.dataset.get_cat_ids(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self):
            return self.dataset[index]
        shown = self.unlabelled[index - len(self)]
        shown['data_samples'].set_metainfo({MARK: False})
        return shown


class BlankMap:
    """In place of a transform that reads label pictures: every pixel is ignored."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the map."""
        results['gt_seg_map'] = np.full(results['img'].shape[:2], IGNORED, np.uint8)
        results['ignore_index'] = IGNORED
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results


def images_in(folder: str | Path) -> list[Path]:
    """The images in a folder and its folders, by path.

    Raises:
        FileNotFoundError: there is no such folder.
        SetupError: it holds no image.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f'There is no folder of unlabelled images {folder} (looked from {Path.cwd()}).'
        )
    found = sorted(p for p in Path(folder).rglob('*') if p.suffix.lower() in SUFFIXES)
    if not found:
        raise SetupError(
            f'The folder of unlabelled images {folder} holds none: no file in it ends in '
            f'{", ".join(sorted(SUFFIXES))}.'
        )
    return found


def unlabelled_like(dataset: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """The config of unlabelled images that look as those of a labelled data set.

    Args:
        dataset: config of the labelled data set; of several in it the first one counts.
        source: arguments of :class:`UnlabelledImages`.
    """
    if dataset.get('datasets'):
        return unlabelled_like(dataset['datasets'][0], source)
    pipeline = without_annotations(dataset.get('pipeline') or ())
    if 'dataset' not in dataset:
        return dict(type=UNLABELLED, pipeline=pipeline) | dict(source)
    inner = unlabelled_like(dataset['dataset'], source)
    if str(dataset['type']).split('.')[-1] == MIXES:
        return dict(dataset, dataset=inner, pipeline=pipeline)
    return inner  # how often labelled images are repeated is nothing to these


def without_annotations(pipeline: Sequence[Any]) -> list[Any]:
    """A pipeline in which nothing reads annotations, or asks for any.

    Args:
        pipeline: of a labelled data set: configs, callables, and lists of them.
    """
    found: list[Any] = []
    for step in pipeline:
        if isinstance(step, Mapping):
            found += _without_annotations(dict(step))
        else:
            found.append(without_annotations(step) if isinstance(step, list | tuple) else step)
    return found


def _without_annotations(step: dict[str, Any]) -> list[Any]:
    if isinstance(step.get('transforms'), list | tuple):
        step['transforms'] = without_annotations(step['transforms'])
    with TRANSFORMS.switch_scope_and_registry(None) as registry:
        kind = step['type'] if isinstance(step['type'], type) else registry.get(step['type'])
    if kind is None:  # told when it is built
        return [step]
    if kind.__name__ == 'FilterAnnotations':
        return []
    if issubclass(kind, LoadAnnotations):
        reads = TRANSFORMS.build(step)
        if not reads.with_seg:
            return [step]  # it finds no object
        boxes = reads.with_bbox or getattr(reads, 'with_mask', False)
        return [*([dict(step, with_seg=False)] if boxes else []), BlankMap()]
    if 'allow_negative_crop' in inspect.signature(kind).parameters:
        step['allow_negative_crop'] = True
    return [step]


def _source(
    dataset: Mapping[str, Any], unlabelled: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """Where unlabelled images are, as arguments of :class:`UnlabelledImages`."""
    if isinstance(unlabelled, str):
        return dict(folder=unlabelled)
    if unlabelled is not None:
        return dict(images_of=[dict(unlabelled)])
    labelled = [dict(leaf) for leaf in leaf_datasets(dataset)]
    return dict(images_of=[leaf | dict(indices=None) for leaf in labelled], but_of=labelled)


def _paths(datasets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The paths of the images of data sets."""
    for config in datasets:
        dataset = MMENGINE_DATASETS.build(dict(config) | dict(pipeline=[], lazy_init=False))
        for index in range(len(dataset)):
            yield dataset.get_data_info(index)['img_path']
