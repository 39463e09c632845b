"""PKD: features of the teacher up to scale and offset of each channel (Cao et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import MEMORY, Read, View, host_info, level_channels, stage_channels, view_class
from .adapters import adapter_options, build_adapters, reset_adapters
from .base import DistillationLoss
from .checks import check_choice
from .maps import GROUPS, LEVELS, resized, size_of, stage_name

if TYPE_CHECKING:
    from ..teachers import Teacher

# a channel is constant, but for rounding, where its deviation is below this share of its mean
ROUNDING = 1e-5
NOTHING = 1e-24  # or its variance below this


def standardized_squared_error(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Half the mean squared difference of features with mean 0 and deviation 1 in each channel.

    Mean and deviation are those over the positions of the mask, of all images together. With both
    standardized the loss is 1 - r, r Pearson's correlation of student and teacher, averaged over
    the channels. Neither side's scale matters; a channel that is constant counts as 0.

    Sources: [1] Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson
    Correlation Coefficient", NeurIPS 2022, arXiv 2207.02039, equations 3 to 5.

    Args:
        student: features, (N, C, h, w).
        teacher: same shape; detached.
        mask: bool, (N, h, w).

    Returns:
        a float32 scalar; 0 for an empty mask.

    Raises:
        SetupError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise SetupError(
            f'Features to compare must have one shape; got {tuple(student.shape)} from the student '
            f"and {tuple(teacher.shape)} from the teacher. Leave `adapter='auto'`."
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    weight = mask[:, None].to(dtype)
    count = weight.sum().clamp(min=1)

    def standardize(features: Tensor) -> Tensor:
        features = features.to(dtype).masked_fill(~mask[:, None], 0.0)
        mean = features.sum(dim=(0, 2, 3), keepdim=True) / count
        centred = (features - mean) * weight
        variance = centred.square().sum(dim=(0, 2, 3), keepdim=True) / count
        alive = variance > (ROUNDING * mean).square() + NOTHING
        # a constant channel is 0, without a gradient; all others count whatever their scale
        return torch.where(alive, centred * torch.where(alive, variance, 1.0).rsqrt(), 0.0)

    difference = standardize(student) - standardize(teacher.detach())
    return 0.5 * difference.square().sum() / count / student.shape[1]


def shared_levels(
    ours: Sequence[float], theirs: Sequence[float], wanted: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Which levels of two models to compare, as pairs of indices (student's, teacher's).

    Levels of the same strides belong together, in order. Where the strides differ: those that both
    have, once each; or, where fewer than two are shared and the numbers of levels agree, those of
    the same rank.

    Args:
        ours, theirs: strides of both sides' levels.
        wanted: the student's levels to use; None for all.

    Raises:
        SetupError: nothing is shared.
    """
    if list(ours) == list(theirs):
        pairs = [(i, i) for i in range(len(ours))]
    else:
        common = [s for s in ours if list(ours).count(s) == 1 == list(theirs).count(s)]
        pairs = [(list(ours).index(s), list(theirs).index(s)) for s in common]
        if len(pairs) < 2 and len(ours) == len(theirs):
            pairs = [(i, i) for i in range(len(ours))]
    if wanted is not None:
        pairs = [pair for pair in pairs if pair[0] in [w % len(ours) for w in wanted]]
    if not pairs:
        raise SetupError(
            f'Teacher and student share no feature level: the strides are {tuple(theirs)} and '
            f'{tuple(ours)}'
            + ('' if wanted is None else f', and levels={tuple(wanted)}')
            + '. Choose a teacher with such strides or as many levels.'
        )
    return pairs


@MODELS.register_module()
class PearsonDistillation(DistillationLoss):
    """Student features follow the teacher's in each channel, whatever their size: PKD.

    weight * sum over the levels of half the mean squared difference of standardized features, which
    is 1 - Pearson's correlation. Made for pairs of other architectures and host families: levels
    are matched by their strides, interpolated where they differ, and brought to the teacher's
    channels by a trained convolution where those differ. Padding (and a segmentor's ignored pixels)
    do not count.

    Sources: [1] Cao et al., arXiv 2207.02039; weight 6 for two-stage detectors, 10 for one-stage
    ones.

    Differs from [1] in leaving out padding. As in [1], mean and deviation are those of the batch,
    here of each rank's part of it: this loss is the mean over ranks, and depends on the batch size.

    Args:
        weight: see :class:`DistillationLoss`.
        levels: the student's levels to use, as indices; None for all that both sides share.
        adapter: as of :class:`~kd_dense.losses.imitation.FeatureImitation`.
        stage: ``'levels'``, or ``'memory'``, what a transformer's encoder returns of them.

    Raises:
        SetupError: an unknown adapter or stage; on building the pair, no level in common.
    """

    def __init__(
        self,
        weight: float = 10.0,
        levels: Sequence[int] | None = None,
        adapter: str | Mapping[str, Any] = 'auto',
        stage: Literal['levels', 'memory'] = 'levels',
    ) -> None:
        super().__init__(weight)
        check_choice('stage', stage, GROUPS)
        self.options = adapter_options(adapter)
        # which levels are shared, it finds itself
        self.reads = (Read(stage_name(stage), agree=()),)
        self.stage = stage
        self.levels = levels
        self.adapter = adapter
        self.pairs: list[tuple[int, int]] = []
        self.adapters = nn.ModuleList()

    def connect(self, student: nn.Module, teacher: Teacher) -> None:
        """Match the levels; build one adapter for each pair of them."""
        ours, theirs = host_info(student).strides, teacher.info.strides
        self.pairs = shared_levels(ours, theirs, self.levels)
        if self.options is None:
            self.adapters = nn.ModuleList(nn.Identity() for _ in self.pairs)
            return
        if self.stage == LEVELS:
            mine, others = level_channels(student), teacher.level_channels()
            channels = [(mine[i], others[j]) for i, j in self.pairs]
        else:
            read = stage_name(self.stage)
            if not (hasattr(view_class(student), read) and teacher.offers(read)):
                return  # refused with the pair
            channels = [
                (
                    stage_channels(student, f'{MEMORY}{i}', read),
                    teacher.channels(f'{MEMORY}{j}', read),
                )
                for i, j in self.pairs
            ]
        self.adapters = build_adapters(channels, self.options, self.adapter != 'auto')

    def init_weights(self) -> None:
        """Initialise the adapters."""
        reset_adapters(self.adapters)

    def forward(self, student: View, teacher: View) -> Tensor:
        """The raw loss of one batch, a scalar."""
        read = stage_name(self.stage)
        values = []
        for (mine, other), adapter in zip(self.pairs, self.adapters, strict=True):
            ours = adapter(getattr(student, read)[mine].float())
            size = size_of(ours)
            theirs = resized(getattr(teacher, read)[other].detach().float(), size)
            values.append(standardized_squared_error(ours, theirs, student.valid_at(size)))
        return torch.stack(values).sum()
