"""What all distillation losses share: weight, schedule, and dividing by a global count."""

from __future__ import annotations

import math
from collections.abc import ItemsView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, cast

import torch
from mmengine import dist
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import VIEWS
from ..views import Read

if TYPE_CHECKING:
    from ..teachers import Teacher


class DistillationLoss(nn.Module):
    """One published idea: reads a student view and a teacher view, returns one scalar.

    Subclasses return the raw value; the distiller multiplies by :attr:`scale`, once.

    Args:
        weight: what the raw value is multiplied by, finite, 0 or more; 0 switches the loss off.

    Raises:
        SetupError: another weight.

    Attributes:
        reads: the properties that it reads of both views, so that the pair can be checked
            beforehand and the teacher runs as deep as needed; what it reads of the student alone
            is not listed. A :class:`~kd_dense.views.Read` says in what the models have to agree
            for this loss, where that is not what the property declares.
        looks_at: where it looks at the teacher's predictions of a dense head: a region of the
            student's (:mod:`kd_dense.losses.regions`), or ``'all'``.
        runs_teacher: whether it runs layers of the teacher on maps of its own.
        maps_classes: whether it asks which class of the teacher is which of the student.
        factor: share of the weight in force now, set by a weight schedule.
        name: what the distiller calls it.
        student_name, teacher_name: who learns, and who is looked at.
        steps: of its own optimizer for each of the student's, where it has one.
        has_optimizer: whether an optimizer of its own is at work on :meth:`own_module`.
    """

    reads: tuple[str | Read, ...] = ()
    looks_at: str = 'all'
    runs_teacher: bool = False
    maps_classes: bool = False
    steps: int = 1
    has_optimizer: bool = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight < math.inf:
            raise SetupError(
                f'The weight of a {type(self).__name__} is {weight!r}; it must be a finite number, '
                '0 or more. A negative one would train away from the teacher; 0 switches it off.'
            )
        self.weight = weight
        self.factor = 1.0
        self.name = ''
        self.student_name = 'student'
        self.teacher_name = 'teacher'

    @property
    def scale(self) -> float:
        """The weight in force now."""
        return self.weight * self.factor

    @property
    def active(self) -> bool:
        """Whether the loss counts now; an inactive one is not computed."""
        return self.scale != 0

    def read_names(self) -> list[str]:
        """Names of the properties that it reads of both views."""
        return [read.name if isinstance(read, Read) else read for read in self.reads]

    def reads_of_some_view(self) -> bool:
        """Whether some kind of view has all the properties that it reads."""
        views = VIEWS.module_dict.values()
        return any(all(hasattr(view, name) for name in self.read_names()) for view in views)

    def connect(self, student: nn.Module, teacher: Teacher) -> None:
        """Build what depends on the pair, such as adapters.

        Args:
            student: the student's model.
            teacher: not loaded yet; it tells its channels and strides.
        """

    def init_weights(self) -> None:
        """Initialise what :meth:`connect` built."""

    def demands(self, student: nn.Module) -> list[str]:
        """Sentences about what the loss asks of the student and does not find; none if it fits."""
        return []

    def zero_like_parameters(self, inputs: Tensor) -> Tensor:
        """Zero with a path to the loss's parameters, which DDP wants to see in each step.

        Args:
            inputs: any tensor, for its device and type.
        """
        apart = set(self.unsynced_parameters())
        parameters = [p for name, p in self.named_parameters() if name not in apart]
        if not parameters:
            return inputs.new_zeros(())
        return torch.stack([p.sum() for p in parameters]).sum() * 0

    def forward(self, student: Any, teacher: Any) -> Tensor:
        """The raw loss of one batch, a scalar.

        Args:
            student, teacher: the views of who learns and of who is looked at.
        """
        raise NotImplementedError

    # -- a loss with an optimizer of its own, such as one with a discriminator ---------------------

    def own_module(self) -> nn.Module | None:
        """What an optimizer of its own trains, behind the student's step; None for most losses."""
        return None

    def unsynced_parameters(self) -> list[str]:
        """Names of parameters and buffers that data-parallel training leaves alone."""
        return []

    def show(self, student: Any, teacher: Any) -> Any:
        """What :meth:`own_losses` looks at of a batch; detached, kept until after the step."""
        return None

    def own_losses(self, shown: Any) -> Mapping[str, Tensor]:
        """The loss of :meth:`own_module`, ``'total'``, and parts of it to be logged by name.

        Args:
            shown: what :meth:`show` returned of the batch.
        """
        raise NotImplementedError


class Losses(nn.ModuleDict):
    """Distillation losses by name."""

    def __getitem__(self, key: str) -> DistillationLoss:
        return cast(DistillationLoss, super().__getitem__(key))

    def items(self) -> ItemsView[str, DistillationLoss]:
        """Names and losses."""
        return cast('ItemsView[str, DistillationLoss]', super().items())

    def values(self) -> ValuesView[DistillationLoss]:
        """The losses."""
        return cast('ValuesView[DistillationLoss]', super().values())


def global_divisor(count: Tensor, least: float = 1.0) -> Tensor:
    """What to divide a local sum by, so that the ranks' average is sum / count over all ranks.

    The count is summed over ranks and clamped from below, and divided by the number of ranks,
    because data-parallel training averages the gradients.

    Args:
        count: of what this rank compared, or the sum of its weights, a scalar.
        least: what it is clamped to; weights may add up to less than 1.

    Returns:
        a positive float32 scalar.
    """
    total = count.detach().to(torch.float32).reshape(()).clone()
    if dist.is_distributed():
        dist.all_reduce(total)
    return total.clamp(min=least) / dist.get_world_size()
