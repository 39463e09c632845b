"""Pictures of what distillation does: ground truth, teacher, student before and after, regions."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from ..checkpoints import load_completely, model_state, read_checkpoint
from ..distiller import Distiller
from ..errors import SetupError
from ..registry import HOOKS
from .common import distiller_of, undisturbed
from .drawing import Boxes, Column, draw_sheet
from .picture_data import Image, choose_images, look, predict

REGION_TITLES = {'main': 'main region', 'vlr': 'valuable localization region'}
REGION_COLOURS = {'main region': '#1a9e3f', 'valuable localization region': '#f28500'}


@HOOKS.register_module()
class DistillationPictureHook(Hook):
    """Draw a few fixed images at the end of a validation, side by side, one row an image.

    Columns: ground truth; teacher; the student before, or trained alone; the student now, with
    its averaged weights where EMA is on; and where distillation looks: the main region and the
    valuable localization region, where the student's head defines them. Written to
    ``pictures/val_iter_N.png`` or ``val_epoch_N.png`` in the work directory. Without validation the
    images are the training set's, drawn once at the end (``train_iter_N.png``). The training stays
    the same to the bit.

    Args:
        num_images: how many images, spread evenly over the data set.
        interval: draw once in so many validations.
        score_thr: boxes below this score are not drawn.
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
        self._images: list[Image] = []
        self._before: Column | None = None
        self._teacher: Column | None = None

    def before_train(self, runner: Runner) -> None:
        """Choose the images, and let the student before, or alone, predict."""
        self._training = True
        distiller = distiller_of(runner, 'DistillationPictureHook')
        with undisturbed(distiller):
            self._choose(runner)
            if self.alone is None:
                student, title = distiller.student, f'student before ({_moment(runner)})'
            else:
                student, title = copy.deepcopy(distiller.student), 'student alone'
                state = model_state(read_checkpoint(self.alone, 'student alone'))
                load_completely(student, state, str(self.alone), 'student alone')
            self._before = self._predicted(title, student)

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
        with undisturbed(distiller):
            classes = self._choose(runner)
            columns = self._columns(distiller, f'student ({moment})')
        if is_main_process():
            pixels, names = zip(*((i.pixels, i.name) for i in self._images), strict=True)
            draw_sheet(path, pixels, names, columns, classes)
            runner.logger.info(f'Pictures of the distillation: {path}')
        return path

    def _choose(self, runner: Runner) -> tuple[str, ...]:
        """Choose the images, once; return the names of the classes."""
        training = runner.val_loop is None
        dataset = (runner.train_dataloader if training else runner.val_dataloader).dataset
        if not self._images:
            self._images = choose_images(dataset, self.num_images, evaluation=not training)
        return tuple(dataset.metainfo.get('classes') or ())

    def _columns(self, distiller: Distiller, title: str) -> list[Column]:
        truth = [image.truth for image in self._images]
        if self._teacher is None:
            teacher = distiller.teacher.model
            if distiller.teacher.dtype != torch.float32:  # NMS wants single precision
                teacher = copy.deepcopy(teacher).float()
            self._teacher = self._predicted('teacher', teacher)
        columns = [Column('ground truth', '', truth), self._teacher]
        if self._before is not None:
            columns.append(self._before)
        columns.append(self._predicted(title, distiller.student))
        dots = {REGION_TITLES[n]: d for n, d in look(distiller.student, self._images).items()}
        if dots:
            columns.append(Column('where distillation looks', '', truth, dots, REGION_COLOURS))
        return columns

    def _predicted(self, title: str, model: nn.Module) -> Column:
        boxes: list[Boxes] = predict(model, self._images, self.score_thr)
        return Column(title, _describe(model), boxes)


def _describe(model: nn.Module) -> str:
    """A model in a few words: ``GFL, ResNet-18, 19.1 M parameters``."""
    backbone = getattr(model, 'backbone', None)
    depth = getattr(backbone, 'depth', None)
    name = type(backbone).__name__ + ('' if depth is None else f'-{depth}')
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f'{type(model).__name__}, {name}, {millions:.3g} M parameters'


def _moment(runner: Runner) -> str:
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return f'epoch {runner.epoch}'
    return f'iter {runner.iter}'
