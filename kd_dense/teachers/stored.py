"""A teacher that has spoken already: what it said of the training images is read from a store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log

from ..errors import SetupError
from ..hosts import Host
from ..registry import TEACHERS
from ..store import Store
from ..store.dataset import FIELD
from ..store.view import stored_view
from ..views import BACKBONE, Batch, HostInfo, View, view_class
from .base import Teacher
from .renormalize import described

if TYPE_CHECKING:
    from ..losses.base import DistillationLoss

# what is computed of what is kept, and of the student alone
MADE_OF = {'decoded_boxes': ('box_logits',), 'assignment': ()}


@TEACHERS.register_module()
class StoredTeacher(Teacher):
    """What a teacher said of fixed views of the training images, written by
    ``kd-dense store-teacher``; its weights are not needed.

    The training set has to show these views (:class:`~kd_dense.store.StoredViews`), which
    ``kd-dense train`` sees to. What is promised is that the teacher said this of these very pixels,
    one picture at a time: a running teacher sees the pictures of a batch padded to the largest,
    which changes what it says of them a little.

    Idea: [1] Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition",
    arXiv 2112.01528 (several views of an image, with what the teacher said of each); [2] Wu et al.,
    "TinyViT", arXiv 2207.10666 (a view as the seed of its augmentation).

    Args:
        path: of the store.
        same_classes: see :class:`~kd_dense.teachers.Teacher`.

    Raises:
        FileNotFoundError: there is no such store.
        SetupError: it is not written to its end.
    """

    of_training_set = True

    def __init__(self, path: str, same_classes: bool = True) -> None:
        self.store = Store(path)
        self.manifest = self.store.manifest
        self.source = str(path)
        self.same_classes = same_classes
        self.classes = self.manifest.classes
        self._loaded = False

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredTeacher:
        return self  # nothing of it changes, so copies of the student (EMA) share it

    @property
    def info(self) -> HostInfo:
        """What has to agree with the student, as the manifest says."""
        return self.manifest.info

    def offers(self, read: str) -> bool:
        """Whether the store holds what a property is read or made of."""
        return set(MADE_OF.get(read, (read,))) <= set(self.manifest.kept.reads)

    def objections(self, loss: DistillationLoss) -> list[str]:
        """Why a loss cannot be served: it reads what is not kept, or at other positions."""
        kept = self.manifest.kept
        if loss.runs_teacher:
            return ["runs layers of the teacher's, which a store does not hold; let it run"]
        if missing := [read for read in loss.read_names() if not self.offers(read)]:
            return [
                f'reads {", ".join(missing)}, and the store {self.source} holds '
                f'{", ".join(kept.reads)}; write it with `--keep {" ".join(missing)}` too, or let '
                'the teacher run'
            ]
        reads = [part for read in loss.read_names() for part in MADE_OF.get(read, (read,))]
        if loss.looks_at in kept.regions or all(map(kept.everywhere, reads)):
            return []
        held = ', '.join(map(repr, kept.regions)) or f'the {kept.best} surest positions'
        return [
            f'compares in region {loss.looks_at!r}, and the store {self.source} holds {held}; '
            'write it of a config with this loss, or with `--whole`'
        ]

    def channels(self, stage: int | str, read: str = 'features') -> int:
        """Channels of the map of a stage, as the manifest says."""
        levels = self.manifest.channels.get(read)
        if levels is None:
            raise SetupError(
                f'The store {self.source} holds no {read}; it holds '
                f'{", ".join(self.manifest.kept.reads)}. Write it with `--keep {read}` too.'
            )
        number = str(stage).removeprefix(BACKBONE)
        return levels[int(number)] if number.lstrip('-').isdecimal() else levels[0]

    @property
    def loaded(self) -> bool:
        """Whether it was compared with the student."""
        return self._loaded

    def load(self, student: Host) -> None:
        """Compare with the student.

        Raises:
            SetupError: the store was written of images preprocessed otherwise.
        """
        if self._loaded:
            return
        ours = described(student.data_preprocessor)
        if differing := [
            f'{key} is {ours.get(key)}, not {value}'
            for key, value in self.manifest.preprocessing.items()
            if ours.get(key) != value
        ]:
            raise SetupError(
                f'The store {self.source} was written for a student whose data_preprocessor is '
                f"another: {'; '.join(differing)}. Take that student's back, or write the store "
                'anew: kd-dense store-teacher CONFIG --to FOLDER'
            )
        if changed := [
            f'{package} {now} for {then}'
            for package, then in self.manifest.versions.items()
            if (now := installed().get(package)) != then
        ]:
            print_log(
                f'The store {self.source} was written with other versions: {", ".join(changed)}. '
                'Views that come out otherwise are refused when they are read.',
                'current',
                logging.WARNING,
            )
        print_log(
            f'Teacher read from {self.source}: {self.manifest.images} pictures in '
            f'{self.manifest.views} views, {self.store.bytes / 2**20:.1f} MiB.',
            'current',
        )
        self._loaded = True

    def view(self, batch: Batch, student: View | None = None) -> View:
        """What the store holds of a batch.

        Args:
            batch: the student's, whose samples carry it.
            student: the student's view.

        Raises:
            SetupError: the samples carry nothing, or the views are not those that were stored.
        """
        answers = [sample.get(FIELD) for sample in batch.samples]
        if student is None or not answers or None in answers:
            raise SetupError(
                f'The {self.name} is stored, and these pictures come without what it said of them. '
                'Train by `kd-dense train` or tools/train.py, or put the data set of '
                "`train_dataloader` into dict(type='kd_dense.StoredViews', dataset=..., "
                f'path={self.source!r}).'
            )
        for answer in answers:
            if answer.differs:
                raise SetupError(
                    f'{answer.what}: {" and ".join(answer.differs)} are not what the teacher saw '
                    f'when the store {self.source} was written. The picture, its annotations, or a '
                    'version of mmcv, OpenCV or Pillow have changed: write the store anew '
                    '(kd-dense store-teacher CONFIG --to FOLDER).'
                )
        kind = stored_view(view_class(student.model))
        return kind(batch, student, self.manifest.kept, self.source)


def installed() -> dict[str, str]:
    """Versions of the packages that decide what pictures and numbers come out."""
    import cv2
    import mmcv

    from ..version import __version__

    found = dict(torch=torch.__version__, mmcv=mmcv.__version__, opencv=cv2.__version__)
    return found | dict(kd_dense=__version__)
