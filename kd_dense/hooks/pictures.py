"""Pictures of what distillation does: ground truth, teacher, student before and after."""

from __future__ import annotations

import copy
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..distiller import Distiller
from ..errors import SetupError
from ..hosts.checkpoints import load_completely, model_state, read_checkpoint
from ..pictures import Column, Gallery, draw_sheet
from ..registry import HOOKS
from .common import distiller_of, restored_afterwards


@HOOKS.register_module()
class DistillationPictureHook(Hook):
    """Draw a few fixed images at the end of a validation, side by side, one row an image.

    Columns: ground truth; each teacher that predicts; the student before, or trained alone; the
    student now, with its averaged weights where EMA is on; and what the losses look at. Of
    detectors that are the main region and the valuable localization region, where the student's
    head defines them; of segmentors, where a discriminator tells the student from the teacher.
    Written to ``pictures/val_iter_N.png`` or ``val_epoch_N.png`` in the work directory. Without
    validation the images are the training set's, drawn once at the end (``train_iter_N.png``). The
    training stays the same to the bit.

    Args:
        num_images: how many images, spread evenly over the data set.
        interval: draw once in so many validations.
        score_thr: boxes of detectors below this score are not drawn.
        alone: path or URL of a checkpoint of the same student trained without teacher, to show
            in the third column instead of the student as it was when this run began.

    Raises:
        SetupError: a number out of its range, or a checkpoint that does not fit the student.
        FileNotFoundError: there is no such checkpoint.
    """

    priority = 'ABOVE_NORMAL'  # before EMAHook takes the averaged weights out of the model again

    def __init__(
        self,
        num_images: int = 4,
        interval: int = 1,
        score_thr: float = 0.3,
        alone: str | Path | None = None,
    ) -> None:
        if num_images < 1 or interval < 1:
            raise SetupError(
                f'DistillationPictureHook got num_images={num_images} and interval={interval}; '
                'both must be at least 1. To draw nothing, take the hook out of `custom_hooks`.'
            )
        self.num_images = num_images
        self.interval = interval
        self.score_thr = score_thr
        self.alone = alone
        self._training = False
        self._validations = 0
        self._gallery: Gallery | None = None
        self._before: Column | None = None
        self._teachers: list[Column] | None = None

    def before_train(self, runner: Runner) -> None:
        """Choose the images, and let the student before, or alone, predict."""
        self._training = True
        distiller = distiller_of(runner, 'DistillationPictureHook')
        with restored_afterwards(distiller):
            gallery = self._choose(runner)
            if self.alone is None:
                student, title = distiller.student, f'student before ({_moment(runner)})'
            else:
                student, title = copy.deepcopy(distiller.student), 'student alone'
                state = model_state(read_checkpoint(self.alone, 'student alone'))
                load_completely(student, state, str(self.alone), 'student alone')
            self._before = gallery.predicted(title, student)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw once in ``interval`` validations, while training."""
        if self._training:
            self._validations += 1
            if self._validations % self.interval == 0:
                self.draw_now(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw now where there was no validation."""
        if runner.val_loop is None:
            self.draw_now(runner)
        self._training = False

    def draw_now(self, runner: Runner) -> Path:
        """Draw the sheet; to be called on all ranks, of which the first writes.

        Returns:
            path of the picture.
        """
        distiller = distiller_of(runner, 'DistillationPictureHook')
        distiller.load_teacher()
        moment = _moment(runner)
        split = 'train' if runner.val_loop is None else 'val'
        path = Path(runner.work_dir, 'pictures', f'{split}_{moment.replace(" ", "_")}.png')
        with restored_afterwards(distiller):
            gallery = self._choose(runner)
            columns = self._columns(distiller, gallery, f'student ({moment})')
        if is_main_process():
            pixels = [image.pixels for image in gallery.images]
            draw_sheet(path, pixels, columns, gallery.classes)
            runner.logger.info(f'Pictures of the distillation: {path}')
        return path

    def _choose(self, runner: Runner) -> Gallery:
        """Choose the images, once."""
        if self._gallery is None:
            training = runner.val_loop is None
            dataset = (runner.train_dataloader if training else runner.val_dataloader).dataset
            self._gallery = Gallery(dataset, self.num_images, not training, self.score_thr)
        return self._gallery

    def _columns(self, distiller: Distiller, gallery: Gallery, title: str) -> list[Column]:
        if self._teachers is None:
            self._teachers = _of_teachers(distiller, gallery)
        return [
            *gallery.annotated(),
            *self._teachers,
            *([] if self._before is None else [self._before]),
            gallery.predicted(title, distiller.student),
            *gallery.focus_columns(distiller),
        ]


def _of_teachers(distiller: Distiller, gallery: Gallery) -> list[Column]:
    """What each teacher predicts; without those that make no predictions."""
    columns = []
    for name, teacher in distiller.teachers.items():
        try:
            model = teacher.predictor()
        except SetupError as error:
            print_log(str(error), 'current')
            continue
        columns.append(gallery.predicted(name, model))
    return columns


def _moment(runner: Runner) -> str:
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return f'epoch {runner.epoch}'
    return f'iter {runner.iter}'
