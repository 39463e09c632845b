"""The running average of the student's weights as its teacher: mean teacher."""

from __future__ import annotations

import copy

import torch
from mmengine.logging import MessageHub
from torch import nn

from ..errors import SetupError
from ..hosts import Host
from ..registry import TEACHERS
from ..views import Batch, View, view_class
from .of_model import ModelTeacher, inference

SHARE = 0.02  # of the schedule, the half-life where none is given


class Average(nn.Module):
    """An average of weights, in checkpoints and never in training mode.

    Args:
        model: whose weights and buffers it begins with.
    """

    steps: torch.Tensor

    def __init__(self, model: Host) -> None:
        super().__init__()
        self.model: Host = copy.deepcopy(model).eval().requires_grad_(False)
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> Average:
        """Stay in evaluation."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, model: Host, momentum: float) -> None:
        """Make the average momentum * average + (1 - momentum) * model; buffers are copied.

        Args:
            model: the student's.
            momentum: 0 to 1.
        """
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        for mine, theirs in pairs:
            mine.lerp_(theirs.to(mine.dtype), 1 - momentum)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


@TEACHERS.register_module()
class EMATeacher(ModelTeacher):
    """The running average of the student's weights teaches the student.

    average = m * average + (1 - m) * student behind each step of the optimizer, with m =
    min(0.5 ** (1 / half_life), 1 - 1 / (steps + 1)). Buffers, such as statistics of batch norms,
    are the student's own. Steps that are left out do not count, nor batches whose gradients are
    accumulated. It is saved in checkpoints, resumes to the bit, and is in no student checkpoint.

    Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv
    1703.01780. There student and teacher see different augmentations of an image; here both see the
    same one. That the decay is given as a half-life, and its default, are our choice.

    Args:
        half_life: steps after which a weight counts half; None for 2 % of the training.

    Raises:
        SetupError: a half-life that is not positive.
    """

    source = 'the running average of the student'

    def __init__(self, half_life: float | None = None) -> None:
        number = isinstance(half_life, int | float) and not isinstance(half_life, bool)
        if half_life is not None and not (number and half_life > 0):
            raise SetupError(
                f'teacher.half_life is {half_life!r}; it is a number of steps above 0.'
            )
        self.half_life = half_life
        self._average: Average | None = None
        self._student: Host | None = None

    def connect(self, student: Host) -> None:
        """Build the average."""
        self._average = Average(student)

    @property
    def module(self) -> Average:
        """The average, for checkpoints; nothing of it trains."""
        if self._average is None:
            raise RuntimeError('The average was not built: call connect(student) first.')
        return self._average

    @property
    def model(self) -> Host:
        """The averaged model."""
        return self.module.model

    @property
    def loaded(self) -> bool:
        """Whether :meth:`load` was called."""
        return self._student is not None

    def load(self, student: Host) -> None:
        """Remember whose weights it averages: they may still be read from a checkpoint."""
        self._student = student

    def view(self, batch: Batch, student: View | None = None) -> View:
        """What losses may look at for one batch; computed when read, without gradients."""
        if self._student is None:
            raise RuntimeError('The teacher was not loaded: call Teacher.load(student) first.')
        if not self.module.steps:  # neither a step behind it nor a checkpoint of it
            self.module.follow(self._student, 0.0)
        return view_class(self.model)(self.model, batch, inference(batch.images.device), student)

    def after_step(self, student: Host) -> None:
        """Follow the student's new weights.

        Raises:
            SetupError: no half-life is given, and the length of the training is not known.
        """
        self.module.steps += 1
        momentum = 1 - 1 / (int(self.module.steps) + 1)
        self.module.follow(student, min(self._momentum(), momentum))

    def _momentum(self) -> float:
        if self.half_life is None:
            steps = MessageHub.get_current_instance().runtime_info.get('max_iters')
            if not steps:
                raise SetupError(
                    'The length of this training is not known here: give `teacher.half_life` in '
                    'steps.'
                )
            self.half_life = SHARE * steps
        return 0.5 ** (1 / self.half_life)

    def predictor(self) -> nn.Module:
        """The averaged model."""
        return self.model
