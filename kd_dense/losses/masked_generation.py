"""MGD: the teacher's features generated from the student's masked ones (Yang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import numbered_generator
from ..registry import MODELS
from ..views import View
from .adapters import adapter_options, build_adapters, paired_stages, reset_adapters
from .base import DistillationLoss, global_divisor
from .imitation import masked_squared_error
from .maps import (
    LEVELS,
    all_stages,
    check_stages,
    size_of,
    stage_reads,
    teacher_map,
)

if TYPE_CHECKING:
    from ..teachers import Teacher


def random_keep(like: Tensor, masked: float, generator: torch.Generator) -> Tensor:
    """Which positions of a map a random mask leaves.

    Args:
        like: a map, (N, C, h, w).
        masked: the share of positions that is masked, on average.
        generator: on the map's device.

    Returns:
        bool, (N, 1, h, w), false where masked.
    """
    shape = (len(like), 1, *size_of(like))
    return torch.rand(shape, generator=generator, device=like.device) >= masked


def generation_block(channels: int) -> nn.Sequential:
    """A 3x3 convolution, ReLU and a 3x3 convolution, of C channels throughout [1, equation 3].

    Sources: [1] Yang et al., "Masked Generative Distillation", ECCV 2022, arXiv 2205.01529.
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


@MODELS.register_module()
class MaskedGeneration(DistillationLoss):
    r"""The teacher's features are generated from those of the student that a random mask leaves.

    weight * :math:`\sum ||G(A(F_s) \cdot M) - F_t||^2 / N`, over all positions but padding, and
    summed over the stages. M is 0 at a random share of the positions of each image, G a trained
    block for each stage (3x3 convolution, ReLU, 3x3 convolution), A a trained 1x1 convolution where
    the channels differ. N counts the images, of all ranks, that have a valid pixel.

    Sources: [1] Yang et al., "Masked Generative Distillation", ECCV 2022, arXiv 2205.01529,
    equations 2 to 5; [2] the authors' code: weight 2e-5 and 65 % masked for one-stage detectors,
    5e-7 and 45 % for two-stage ones, 2e-5 and 75 % on the last map of a segmentor's backbone.

    Differs from [2], where the padding is generated too. The value grows with the resolution, as
    [2]'s does; ``per_position=True`` divides by positions and channels in place of images, so that
    a weight serves every size: at 1333 x 800 the published weights are then about 115 (one-stage)
    and 11.5 (two-stage).

    The masks have random numbers of their own, the same again in a resumed training; ranks mask
    apart. A teacher's map of another size is brought to the student's.

    Args:
        masked: the share of positions that is masked, from 0 up to but not 1.
        weight: see :class:`DistillationLoss`.
        stages: ``('levels',)``, all feature maps, or indices of some; ``'head'`` of segmentors;
            ``('memory',)``, all that a transformer's encoder returns.
        adapter: as of :class:`~kd_dense.losses.imitation.FeatureImitation`; one for each stage.
        per_position: whether to divide by positions and channels.
        seed: of the masks.

    Raises:
        SetupError: an unknown choice, or a share out of its range.
    """

    def __init__(
        self,
        masked: float = 0.65,
        weight: float = 2e-5,
        stages: Sequence[int | str] = (LEVELS,),
        adapter: str | Mapping[str, Any] = 'auto',
        per_position: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(weight)
        stages = check_stages(stages)
        if not 0 <= masked < 1:
            raise SetupError(
                f'masked is {masked}; it is the share of positions to mask, from 0 to below 1.'
            )
        self.options = adapter_options(adapter)
        self.reads = tuple(dict.fromkeys(map(stage_reads, stages)))
        self.masked = masked
        self.stages = stages
        self.adapter = adapter
        self.per_position = per_position
        self.seed = seed
        self.adapters = nn.ModuleList()
        self.generators = nn.ModuleList()
        self.drawn: Tensor
        self.register_buffer('drawn', torch.zeros((), dtype=torch.long))

    def connect(self, student: nn.Module, teacher: Teacher) -> None:
        """Build an adapter and a generation block for each stage."""
        channels = [pair for _, pair in paired_stages(self, self.stages, student, teacher)]
        self.generators = nn.ModuleList(generation_block(theirs) for _, theirs in channels)
        if self.options is not None:
            self.adapters = build_adapters(channels, self.options, self.adapter != 'auto')

    def init_weights(self) -> None:
        """Initialise the adapters and the generation blocks."""
        reset_adapters(self)

    def forward(self, student: View, teacher: View) -> Tensor:
        """The raw loss of one batch, a scalar."""
        stages = all_stages(self.stages, len(student.features))
        adapters = self.adapters or [nn.Identity()] * len(stages)
        draws = numbered_generator(self.seed, int(self.drawn), student.batch.images.device)
        self.drawn += 1
        totals, counts, images = [], [], []
        for stage, adapter, generate in zip(stages, adapters, self.generators, strict=True):
            ours = adapter(student.stage(stage).float())
            size = size_of(ours)
            generated = generate(ours * random_keep(ours, self.masked, draws))
            valid = student.valid_at(size)
            theirs = teacher_map(teacher, stage, size)
            total, count = masked_squared_error(generated, theirs, valid)
            totals.append(total / theirs.shape[1] if self.per_position else total)
            counts.append(count)
            images.append(valid.flatten(1).any(dim=1).sum())
        if self.per_position:
            return torch.stack(totals).sum() / global_divisor(torch.stack(counts).sum())
        divided = zip(totals, images, strict=True)
        return torch.stack([total / global_divisor(count) for total, count in divided]).sum()
