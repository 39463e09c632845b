"""What all distillation losses share: weight, schedule, and dividing by a global count."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine import dist
from torch import Tensor, nn

from ..views import View


class DistillationLoss(nn.Module):
    """One published idea: reads a student view and a teacher view, returns one scalar.

    Subclasses return the raw value; the distiller multiplies by :attr:`scale`, once.

    Args:
        weight: what the raw value is multiplied by; 0 switches the loss off.

    Attributes:
        reads: the properties that it reads of both views, so that the pair can be checked
            beforehand and the teacher runs as deep as needed; what it reads of the student alone
            is not listed.
        factor: share of the weight in force now, set by a weight schedule.
        name: what the distiller calls it.
    """

    reads: tuple[str, ...] = ()

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.factor = 1.0
        self.name = ''

    @property
    def scale(self) -> float:
        """The weight in force now."""
        return self.weight * self.factor

    @property
    def active(self) -> bool:
        """Whether the loss counts now; an inactive one is not computed."""
        return self.scale != 0

    def connect(self, student: nn.Module, teacher: Callable[[], nn.Module]) -> None:
        """Build what depends on the pair, such as adapters.

        Args:
            student: the student's model.
            teacher: gives the teacher's model, without its weights.
        """

    def init_weights(self) -> None:
        """Initialise what :meth:`connect` built."""

    def demands(self, student: nn.Module) -> list[str]:
        """Sentences about what the loss asks of the student and does not find; none if it fits."""
        return []

    def apart(self) -> list[str]:
        """Names of parameters and buffers that are not trained with the student, but by a game."""
        return []

    def nothing(self, inputs: Tensor) -> Tensor:
        """Zero with a path to the loss's own parameters, which DDP wants to see in each step."""
        parameters = list(self.parameters())
        if not parameters:
            return inputs.new_zeros(())
        return torch.stack([p.sum() for p in parameters]).sum() * 0

    def forward(self, student: View, teacher: View) -> Tensor:
        """The raw loss of one batch, a scalar."""
        raise NotImplementedError


def global_divisor(count: Tensor) -> Tensor:
    """What to divide a local sum by, so that the ranks' average is sum / count over all ranks.

    The count is summed over ranks and clamped to at least 1, and divided by the number of ranks,
    because data-parallel training averages the gradients.

    Args:
        count: of what this rank compared, a scalar.

    Returns:
        a positive float32 scalar.
    """
    total = count.detach().to(torch.float32).reshape(()).clone()
    if dist.is_distributed():
        dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()
