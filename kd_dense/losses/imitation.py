"""Imitation of the teacher's features: plain hints, and hints inside a region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import View
from .adapters import (
    adapter_options,
    align,
    build_adapters,
    paired_channels,
    paired_stages,
    reset_adapters,
)
from .base import DistillationLoss, global_divisor
from .checks import check_choice
from .maps import GROUPS, LEVELS, OF_ANY_SIZE, check_stages, size_of, stage_name, stage_reads
from .regions import (
    REGIONS,
    check_region,
    labels_demands,
    levels_with_positives,
    published_general_instances,
    region_demands,
    region_reads,
)

if TYPE_CHECKING:
    from ..teachers import Teacher


def masked_squared_error(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of ``||s - t||^2`` over the positions of a mask, and their number.

    Args:
        student: features, (N, C, H, W).
        teacher: same shape; detached.
        mask: bool, (N, H, W).

    Returns:
        the sum over channels and positions, a float32 scalar, and the number of positions.

    Raises:
        SetupError: the shapes differ.
    """
    return _difference(student, teacher, mask).square().sum(), mask.sum()


def masked_absolute_error(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of ``|s - t|`` over channels and the positions of a mask, and their number.

    Arguments, results and errors as in :func:`masked_squared_error`.
    """
    return _difference(student, teacher, mask).abs().sum(), mask.sum()


def _difference(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """s - t at the positions of a mask, (positions, C).

    Only what is inside the mask is computed with: an infinity outside it would come back through
    the squares as 0 * inf, a gradient that is no number under a loss that is.
    """
    if student.shape != teacher.shape:
        raise SetupError(
            f'Features to imitate must have one shape; got {tuple(student.shape)} from the student '
            f'and {tuple(teacher.shape)} from the teacher. Where only the channels differ, leave '
            "`adapter='auto'`; where the sizes differ, set `align='interpolate'`."
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    ours, theirs = (maps.movedim(1, -1)[mask] for maps in (student, teacher.detach()))
    return ours.to(dtype) - theirs.to(dtype)


CRITERIA = {'l2': masked_squared_error, 'l1': masked_absolute_error}


@MODELS.register_module()
class FeatureImitation(DistillationLoss):
    """Mean squared, or absolute, error of student features in a region of all levels.

    weight * sum ||A(V_s) - V_t||^2 / (positions in the region * C), with one A per level: the
    identity or a convolution that is trained with the student. ``region='all'`` is the plain hint:
    every position that is not padding.

    Sources: [1] Romero et al., "FitNets", arXiv 1412.6550, equation 3 (hints); [2] Zheng et al.,
    "Localization Distillation", arXiv 2102.12252 (mean squared error, weight 2, five regions);
    [3] Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation",
    NIPS 2017, section 3.4: ``adapter='conv1x1'``, an adaptation also where the channels agree,
    and ``weight=0.5``, its gamma.

    Differs from [2]'s code: that takes a mean on each level and adds the levels, imitates nothing
    on levels on which no position is a positive of the student's own assignment, and has another
    ``'general'`` (:func:`~kd_dense.losses.regions.published_general_instances`).
    ``variant='reference'`` does all of that, the plain hint apart (``region='all'``, which [2] does
    not have): there it is the mean on each level only. Padding never counts, and a position
    on the left or upper edge of a box does.

    Args:
        region: one of :data:`~kd_dense.losses.regions.REGIONS`.
        weight: see :class:`DistillationLoss`.
        adapter: ``'auto'``, a 1x1 convolution on levels where the channels differ; ``'conv1x1'``
            or ``'conv3x3'`` on all levels; ``'none'``; or a dict with ``kernel`` (1 or 3), ``norm``
            (batch norm behind it) and ``relu`` (behind that), on all levels.
        variant: ``'paper'`` or ``'reference'``.
        criterion: ``'l2'``, the squared error, or ``'l1'``, the absolute one.
        align: ``'none'``, levels have the same strides; ``'interpolate'``, each of the student's
            levels, adapted, is interpolated to the size of the teacher's level of the same rank.
        stage: ``'levels'``, all of them; ``'memory'``, all of what a transformer's encoder returns;
            or one map, the guided layer of [1]: the index of a feature map, ``'backbone.2'``, of
            the backbone's, or ``'head'``, what a segmentor's classifier reads. All but the levels
            know no region but ``'all'``.

    Raises:
        SetupError: an unknown choice.
    """

    def __init__(
        self,
        region: str = 'all',
        weight: float = 2.0,
        adapter: str | Mapping[str, Any] = 'auto',
        variant: Literal['paper', 'reference'] = 'paper',
        criterion: Literal['l2', 'l1'] = 'l2',
        align: Literal['none', 'interpolate'] = 'none',
        stage: int | str = LEVELS,
    ) -> None:
        super().__init__(weight)
        check_region(region)
        check_stages(stage)
        if stage != LEVELS and region != 'all':
            raise SetupError(
                f'region {region!r} is one of all feature levels, and stage is {stage!r}; '
                "leave out the stage, or take `region='all'`."
            )
        check_choice('variant', variant, ('paper', 'reference'))
        check_choice('criterion', criterion, tuple(CRITERIA))
        check_choice('align', align, ('none', 'interpolate'))
        self.options = adapter_options(adapter)
        hint = 'features' if align == 'none' else OF_ANY_SIZE
        if stage != LEVELS:
            hint = stage_reads(stage)
        self.reads = (hint, *region_reads(region))
        self.region = region
        self.adapter = adapter
        self.variant = variant
        self.criterion = criterion
        self.align = align
        self.stage = stage
        self.adapters = nn.ModuleList()

    def connect(self, student: nn.Module, teacher: Teacher) -> None:
        """Build one adapter per level."""
        if self.options is None:
            return
        if self.stage == LEVELS:
            channels = paired_channels(student, teacher)
        else:
            channels = [pair for _, pair in paired_stages(self, (self.stage,), student, teacher)]
        self.adapters = build_adapters(channels, self.options, self.adapter != 'auto')

    def init_weights(self) -> None:
        """Initialise the adapters."""
        reset_adapters(self.adapters)

    def demands(self, student: nn.Module) -> list[str]:
        """What the region asks of the student, and for the reference a known assignment."""
        found = region_demands(self.region, student)
        return found or (labels_demands(student) if self._only_with_positives else [])

    @property
    def _only_with_positives(self) -> bool:
        """Whether levels without positives are left out."""
        return self.variant == 'reference' and self.region != 'all'

    def forward(self, student: Any, teacher: View) -> Tensor:
        """The raw loss of one batch, a scalar."""
        ours, theirs = self._maps(student), self._maps(teacher)
        masks = self._masks(student, teacher, ours)
        adapters = self.adapters or [nn.Identity()] * len(masks)
        totals, counts = [], []
        levels = zip(adapters, ours, theirs, masks, strict=True)
        for level, (adapter, features, hint, mask) in enumerate(levels):
            adapted = adapter(features.float())
            if self.align == 'interpolate':
                adapted, mask = align(adapted, mask, size_of(hint))
                mask = mask & self._inside(teacher, level, size_of(hint))
            total, count = CRITERIA[self.criterion](adapted, hint, mask)
            # each level by its own channels: an FPN's agree, a backbone's do not
            totals.append(total / adapted.shape[1])
            counts.append(count)
        if self.variant == 'reference':
            return sum(t / count.clamp(min=1) for t, count in zip(totals, counts, strict=True))
        return torch.stack(totals).sum() / global_divisor(torch.stack(counts).sum())

    def _maps(self, view: View) -> tuple[Tensor, ...]:
        if self.stage in GROUPS:
            return getattr(view, stage_name(self.stage))
        return (view.stage(self.stage),)

    def _masks(self, student: Any, teacher: View, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Which positions of the student's maps count."""
        if self.stage != LEVELS:
            return [student.valid_at(size_of(each)) for each in maps]
        region = REGIONS[self.region]
        if self.variant == 'reference' and self.region == 'general':
            region = published_general_instances
        masks = student.positions(region(student, teacher))
        if self._only_with_positives:
            some = levels_with_positives(student)
            masks = [mask & found for mask, found in zip(masks, some, strict=True)]
        return masks

    def _inside(self, teacher: View, level: int, size: tuple[int, int]) -> Tensor:
        """Which positions of a map of the teacher are not in its padding."""
        batch = teacher.batch
        of_levels = self.stage == LEVELS
        stride = teacher.strides[level] if of_levels else batch.images.shape[-1] / size[-1]
        return batch.inside(size, stride)
