"""Write a store: show a teacher the views of the training images, one picture at a time."""

from __future__ import annotations

import copy
import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..distiller import Distiller
from ..errors import SetupError
from ..files import part_of
from ..losses.regions import REGIONS
from ..registry import MMENGINE_DATASETS, MODELS
from ..teachers import Teacher
from ..teachers.renormalize import described
from ..teachers.stored import installed
from ..views import Batch, View, view_class
from ..views.view import as_levels
from .dataset import SeededPipeline, check_pipelines, marks_of, pictures, pipelines_of
from .kept import MARK, Kept, record_of
from .manifest import FILE, Manifest, differences
from .served import check_teacher, what_to_keep
from .shards import note_shard, shard_name, write_shard
from .store import missing_shards, write_names

TRIED = 32  # views that the size of a store is told by
TWICE = 8  # pictures that are looked at twice
SHARD = 64 * 2**20  # bytes of a file, about
MOST = 256  # records of a file
FREE = 0.95  # of the free space may be taken
PATIENCE = 1800.0  # seconds


def write_store(
    config: Config,
    folder: Path,
    teacher: str | None = None,
    views: int = 1,
    seed: int = 0,
    keep: Sequence[str] = (),
    whole: bool = False,
    best: int = 0,
    dtype: str = 'float16',
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Write what is missing of the store of a training.

    Args:
        config: of a distillation; it is not changed.
        folder: of the store.
        teacher: which of several, by name; the first without.
        views: of each picture.
        seed: that the seeds of views are made of.
        keep, whole, best, dtype: see :func:`what_to_keep`.
        rank, ranks: see :class:`Writer`.

    Raises:
        FileNotFoundError: the teacher or the data is not there.
        SetupError: it cannot be stored, or the store was begun otherwise.
    """
    with DefaultScope.overwrite_default_scope(config.get('default_scope')):
        distiller: Distiller = MODELS.build(copy.deepcopy(config.model))
        data = config.train_dataloader['dataset']
        dataset = MMENGINE_DATASETS.build(data)
        dataset.full_init()
        name = teacher or next(iter(distiller.teachers), None)
        if name not in distiller.teachers:
            known = ', '.join(distiller.teachers) or 'none'
            raise SetupError(f'There is no teacher {name!r} to be stored; there is {known}.')
        found = distiller.teachers[name]
        check_teacher(found)
        losses = {n: each for n, each in distiller.losses_of(name).items() if each.weight}
        kept = what_to_keep(found, losses, keep, whole, best, dtype)
        distiller.to(get_device())
        distiller.load_teacher()
        writer = Writer(distiller, found, kept, folder, rank, ranks)
        shown = writer.prepare(dataset, data, views, seed)
        writer.write(shown, config.train_dataloader.get('num_workers', 0))


class Views(Dataset):
    """All views of all pictures of a data set, in the order of a store's records.

    Args:
        dataset: built, with its own pipeline.
        views: of each picture, K.
        seed: that the seeds of views are made of.

    Raises:
        SetupError: two pictures are called alike.
    """

    def __init__(self, dataset: Any, views: int, seed: int) -> None:
        self.views = views
        found: dict[str, tuple[SeededPipeline, Any, int]] = {}
        for name, leaf, index in pictures(dataset):
            if name in found:
                raise SetupError(
                    f'{name} stands twice in the training images, so what the teacher said of it '
                    'could not be told apart. Leave one of the data sets out that name it.'
                )
            found[name] = (SeededPipeline.of(leaf, seed), leaf, index)
        self.names = sorted(found)
        self._found = found

    def __len__(self) -> int:
        return len(self.names) * self.views

    def __getitem__(self, number: int) -> dict[str, Any] | None:
        picture, view = divmod(number, self.views)
        seeded, leaf, index = self._found[self.names[picture]]
        return seeded.show(leaf.get_data_info(index), view)

    def digest(self) -> str:
        """SHA-256 of names and boxes, wherever the data lies."""
        digest = hashlib.sha256()
        for name in self.names:
            _, leaf, index = self._found[name]
            instances = leaf.get_data_info(index).get('instances') or []
            boxes = [(each.get('bbox'), each.get('bbox_label')) for each in instances]
            digest.update(f'{name}{boxes}\n'.encode())
        return digest.hexdigest()


class Writer:
    """Writes what is missing of a store.

    Args:
        distiller: with student and teacher; it is brought into evaluation mode.
        teacher: one of its, loaded.
        kept: what to keep.
        folder: of the store.
        rank: which of several processes this is, each of which writes its share of the files.
        ranks: how many they are. They need not know of each other: a process group would wait for
            all of them wherever a head shares a count, and they do not look at the same pictures.
        say: tells the progress in a line.
    """

    def __init__(
        self,
        distiller: Distiller,
        teacher: Teacher,
        kept: Kept,
        folder: Path,
        rank: int = 0,
        ranks: int = 1,
        say: Callable[[str], None] = print,
    ) -> None:
        if getattr(distiller.data_preprocessor, 'batch_augments', None):
            raise SetupError(
                "The student's data_preprocessor has `batch_augments`, which draw random numbers "
                'for a whole batch; a store keeps single pictures. Resize in the pipeline.'
            )
        self.distiller = distiller.eval()
        self.teacher = teacher
        self.kept = kept
        self.folder = folder
        self.rank = rank
        self.ranks = ranks
        self.say = say

    def prepare(self, dataset: Any, config: Mapping[str, Any], views: int, seed: int) -> Views:
        """Write manifest and names, or compare with those that are there.

        Args:
            dataset: the training set.
            config: of it.
            views: of each picture.
            seed: that the seeds of views are made of.

        Returns:
            the views.

        Raises:
            SetupError: the store is of something else, the pipeline gives other pictures for the
                same seed, or the disk is too small.
        """
        check_pipelines(dataset)
        shown = Views(dataset, views, seed)
        check_repeats(shown)
        tried = self._tried(shown)
        size = max(1, sum(map(_bytes, tried)) // len(tried))
        manifest = self._manifest(shown, config, views, seed, size)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.rank == 0 and not (self.folder / FILE).is_file():
            self._check_space(size, len(shown), len(shown))
            write_names(self.folder, shown.names)
            manifest.write(self.folder)
            return shown
        self._await_manifest()
        begun = Manifest.read(self.folder)
        if differing := differences(begun, manifest):
            raise SetupError(
                f'The store {self.folder} was begun with other values of '
                f'{", ".join(differing)}. Take those back, or name another folder (--to).'
            )
        left = len(missing_shards(self.folder, begun)) * begun.per_shard
        self._check_space(size, min(left, len(shown)), len(shown))
        return shown

    def _await_manifest(self) -> None:
        """Wait for the first of several processes to write the manifest."""
        start = time.monotonic()
        while not (self.folder / FILE).is_file():
            if time.monotonic() - start > PATIENCE:
                raise SetupError(
                    f'The first of {self.ranks} processes has written no {FILE} into '
                    f'{self.folder}. See what it says; all have to see the same folder.'
                )
            time.sleep(0.2)

    def write(self, shown: Views, workers: int = 0) -> None:
        """Write the files that are missing; of several ranks each its share.

        Args:
            shown: of :meth:`prepare`.
            workers: processes that read pictures.

        Raises:
            SetupError: the disk is full.
        """
        manifest = Manifest.read(self.folder)
        missing = missing_shards(self.folder, manifest)
        mine = [each for each in missing if each % self.ranks == self.rank]
        numbers = [list(_inside(each, manifest)) for each in mine]
        loader = DataLoader(
            shown,
            batch_size=None,
            sampler=[number for shard in numbers for number in shard],
            num_workers=workers,
            collate_fn=_as_it_is,
        )
        each_view = iter(loader)
        start = time.monotonic()
        for done, (shard, inside) in enumerate(zip(mine, numbers, strict=True), start=1):
            records = [self.record(next(each_view)) for _ in inside]
            self._write_shard(shard, records, len(mine) - done + 1)
            left = (time.monotonic() - start) / done * (len(mine) - done)
            self.say(
                f'{shard_name(shard)}: {done} of {len(mine)} files, '
                f'{timedelta(seconds=round(left))} to go'
            )

    @torch.no_grad()
    def record(self, shown: dict[str, Any] | None) -> dict[str, Tensor]:
        """What is kept of a view; nothing where the pipeline dropped the picture.

        Args:
            shown: the view, as the pipeline gives it.
        """
        if shown is None:
            return {}
        marks = torch.tensor(marks_of(shown))
        student = self._student_view(shown)
        chosen = None
        if self.kept.regions:
            with student.recording():
                self.distiller.student.loss(student.batch.images, student.batch.samples)
            masks = [REGIONS[name](student, student) for name in self.kept.regions]
            chosen = torch.stack(masks).any(dim=0)
        view = self.teacher.view(student.batch, student)
        return {**record_of(view, self.kept, chosen), MARK: marks}

    def _student_view(self, shown: dict[str, Any]) -> View:
        data = self.distiller.data_preprocessor(pseudo_collate([shown]), True)
        batch = Batch(data['inputs'], data['data_samples'])
        student = view_class(self.distiller.student)(self.distiller.student, batch)
        student.annotated = self.distiller.own_loss
        return student

    def _tried(self, shown: Views) -> list[dict[str, Tensor]]:
        """The records of some pictures, wherever they stand."""
        step = max(1, len(shown) // TRIED)
        found = [self.record(shown[number]) for number in range(0, len(shown), step)][:TRIED]
        if not any(found):
            raise SetupError(
                f'The pipeline drops each of the {len(found)} pictures that were tried, so there '
                'is nothing to store.'
            )
        return [each for each in found if each]

    def _manifest(
        self, shown: Views, config: Mapping[str, Any], views: int, seed: int, size: int
    ) -> Manifest:
        classes = self.teacher.classes
        return Manifest(
            kept=self.kept,
            views=views,
            seed=seed,
            images=len(shown.names),
            per_shard=min(max(SHARD // size, 1), MOST),
            info=self.teacher.info,
            channels=self._channels(shown),
            source=self.teacher.source,
            weights=_weights(self.teacher),
            preprocessing=described(self.distiller.student.data_preprocessor),
            pipelines=pipelines_of(config),
            classes=None if classes is None else tuple(classes),
            pictures=shown.digest(),
            versions=installed(),
        )

    @torch.no_grad()
    def _channels(self, shown: Views) -> dict[str, list[int]]:
        some = next(each for number in range(len(shown)) if (each := shown[number]) is not None)
        student = self._student_view(some)
        view = self.teacher.view(student.batch, student)
        return {
            read: [each.shape[1] for each in as_levels(getattr(view, read))]
            for read in self.kept.reads
        }

    def _check_space(self, size: int, left: int, records: int) -> None:
        """Tell how large the store becomes.

        Raises:
            SetupError: the disk has no such space.
        """
        free = shutil.disk_usage(self.folder).free * FREE
        self.say(
            f'{records} views of about {_size(size)}, {_size(size * records)} in all; '
            f'{_size(free)} are free'
        )
        if size * left > free:
            raise SetupError(
                f'The store would take {_size(size * left)} more, and {self.folder} has '
                f'{_size(free)}. Keep less: fewer --views, fewer --keep, --best in place of whole '
                'maps, --dtype float16; or name another disk (--to).'
            )

    def _write_shard(self, shard: int, records: list[dict[str, Tensor]], left: int) -> None:
        path = self.folder / shard_name(shard)
        try:
            write_shard(path, records)
            note_shard(self.folder, shard)
        except (OSError, SafetensorError) as error:
            full = getattr(error, 'errno', None) == errno.ENOSPC or 'No space left' in str(error)
            if not full:
                raise
            part_of(path).unlink(missing_ok=True)
            raise SetupError(
                f'The disk of {self.folder} is full; about '
                f'{_size(left * sum(map(_bytes, records)))} are missing. What is written stays: '
                'make room, and the same command goes on.'
            ) from None


def check_repeats(shown: Views) -> None:
    """Check that the pipeline gives the same pictures for the same seeds, in another order.

    Raises:
        SetupError: it does not.
    """
    first = list(range(0, len(shown), max(1, len(shown) // TWICE)))[:TWICE]
    marks = {number: _marks(shown[number]) for number in first}
    for number in reversed(first):
        if _marks(shown[number]) != marks[number]:
            raise SetupError(
                f'{shown.names[number // shown.views]} comes out of the pipeline otherwise when it '
                'is asked for again with the same random numbers, so a transform has random '
                'numbers or a memory of its own. A store needs views that come back the same.'
            )


def _marks(shown: dict[str, Any] | None) -> list[int]:
    return [] if shown is None else marks_of(shown)


def _inside(shard: int, manifest: Manifest) -> Iterator[int]:
    """Numbers of the records of a file."""
    start = shard * manifest.per_shard
    yield from range(start, min(start + manifest.per_shard, manifest.records))


def _as_it_is(shown: Any) -> Any:
    return shown


def _weights(teacher: Teacher) -> str:
    """SHA-256 of what a teacher predicts with."""
    digest = hashlib.sha256()
    for name, value in sorted(teacher.predictor().state_dict().items()):
        digest.update(f'{name}{tuple(value.shape)}{value.dtype}'.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _bytes(record: Mapping[str, Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in record.values())


def _size(count: float) -> str:
    """A number of bytes in words."""
    for unit in ('B', 'kB', 'MB'):
        if count < 1000:
            return f'{count:.0f} {unit}' if count >= 100 else f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:.3g} GB'
