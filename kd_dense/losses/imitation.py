"""Imitation of the teacher's features: plain hints, and hints inside a region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..adapters import build_adapters
from ..errors import SetupError
from ..regions import REGIONS, check_region, region_demands, region_reads
from ..registry import MODELS
from ..views import DenseView
from .base import DistillationLoss, global_divisor
from .soft_targets import check_choice


def masked_squared_error(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of ||s - t||^2 over the positions of a mask, and their number.

    Args:
        student: features, (N, C, H, W).
        teacher: same shape; detached.
        mask: bool, (N, H, W).

    Returns:
        the sum over channels and positions, a float32 scalar, and the number of positions.

    Raises:
        ValueError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise SetupError(
            f'Features to imitate must have one shape; got {tuple(student.shape)} from the student '
            f'and {tuple(teacher.shape)} from the teacher. Where only the channels differ, leave '
            "`adapter='auto'`."
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    squared = (student.to(dtype) - teacher.detach().to(dtype)).square().sum(dim=1)
    return squared[mask].sum(), mask.sum()


@MODELS.register_module()
class FeatureImitation(DistillationLoss):
    """Mean squared error between student and teacher features in a region of all levels.

    weight * sum ||A(V_s) - V_t||^2 / (positions in the region * C), with one A per level: the
    identity or a 1x1 convolution. ``region='all'`` is the plain hint: every position that is not
    padding.

    Sources: [1] Romero et al., "FitNets", arXiv 1412.6550, equation 3 (hints); [2] Zheng et al.,
    "Localization Distillation", arXiv 2102.12252 (mean squared error, weight 2, five regions).

    Differs from [2]'s code in the divisor: that takes a mean on each level and adds the levels;
    ``variant='reference'`` does the same. Padding never counts.

    Args:
        region: one of :data:`~kd_dense.regions.REGIONS`.
        weight: see :class:`DistillationLoss`.
        adapter: ``'auto'``, a 1x1 convolution on levels where the channels differ; ``'conv1x1'``
            on all levels; ``'none'``.
        variant: ``'paper'`` or ``'reference'``.

    Raises:
        ValueError: an unknown choice.
    """

    def __init__(
        self,
        region: str = 'all',
        weight: float = 2.0,
        adapter: Literal['auto', 'conv1x1', 'none'] = 'auto',
        variant: Literal['paper', 'reference'] = 'paper',
    ) -> None:
        super().__init__(weight)
        check_region(region)
        check_choice('adapter', adapter, ('auto', 'conv1x1', 'none'))
        check_choice('variant', variant, ('paper', 'reference'))
        self.reads = ('features', *region_reads(region))
        self.region = region
        self.adapter = adapter
        self.variant = variant
        self.adapters = nn.ModuleList()

    def connect(self, student: nn.Module, teacher: Callable[[], nn.Module]) -> None:
        """Build one adapter per level."""
        if self.adapter != 'none':
            self.adapters = build_adapters(student, teacher(), always=self.adapter == 'conv1x1')

    def init_weights(self) -> None:
        """Initialise the adapters."""
        for adapter in self.adapters:
            if isinstance(adapter, nn.Conv2d):
                adapter.reset_parameters()

    def demands(self, student: nn.Module) -> list[str]:
        """What the region asks of the student."""
        return region_demands(self.region, student)

    def forward(self, student: DenseView, teacher: DenseView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        mask = student.positions(REGIONS[self.region](student, teacher))
        adapters = self.adapters or [nn.Identity()] * len(mask)
        adapted = [a(f.float()) for a, f in zip(adapters, student.features, strict=True)]
        channels = adapted[0].shape[1]
        pairs = [
            masked_squared_error(s, t, m)
            for s, t, m in zip(adapted, teacher.features, mask, strict=True)
        ]
        if self.variant == 'reference':
            return sum(total / count.clamp(min=1) for total, count in pairs) / channels
        total = torch.stack([total for total, _ in pairs]).sum()
        return total / channels / global_divisor(torch.stack([c for _, c in pairs]).sum())
