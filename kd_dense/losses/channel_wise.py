"""Channel-wise distillation: where in the image each channel looks (Shu et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import MODELS
from ..views import View
from .adapters import adapter_options, build_adapters, paired_stages, reset_adapters
from .base import DistillationLoss, global_divisor
from .checks import check_temperature
from .functional import prepare_logits
from .maps import (
    GROUPS,
    all_stages,
    check_stages,
    size_of,
    stage_reads,
    teacher_map,
)

if TYPE_CHECKING:
    from ..teachers import Teacher


def channel_kl(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Sum over images and channels of KL(P(t/T) || P(s/T)) * T^2, P = softmax over positions.

    Positions that are not valid have no part in the softmax; images without any valid one count 0.

    Sources: [1] Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
    arXiv 2011.13256, equations 3 to 5.

    Args:
        student: a map, (N, C, h, w).
        teacher: same shape; detached.
        valid: bool, (N, h, w).
        temperature: T, above 0.

    Returns:
        a float32 scalar.

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    valid = valid.flatten(1)[:, None]  # (N, 1, h * w)
    seen = valid.any(dim=-1, keepdim=True)

    def log_softmax(maps: Tensor) -> Tensor:
        maps = (maps.flatten(2) / temperature).masked_fill(~valid & seen, -torch.inf)
        return F.log_softmax(maps, dim=-1).masked_fill(~valid, 0.0)

    log_s, log_t = log_softmax(student), log_softmax(teacher)
    return (log_t.exp() * (log_t - log_s)).masked_fill(~valid, 0.0).sum() * temperature**2


@MODELS.register_module()
class ChannelWise(DistillationLoss):
    """Each channel is active where the teacher's is: CWD.

    weight * T^2 / (N * C) * sum of KL(P(t/T) || P(s/T)) over N images and C channels, P = softmax
    over the positions of a channel's map; summed over the stages. N counts the images, of all
    ranks, that have a valid pixel.

    Sources: [1] Shu et al., arXiv 2011.13256, equation 5; logits of segmentors: T = 4, weight 3;
    FPN levels of detectors: ``stages=('levels',), temperature=1, weight=10``.

    Differs from [1] in leaving out padding and ignored pixels. A teacher's map of another size is
    brought to the student's; other channels by an adapter, trained with the student.

    Args:
        stages: ``('logits',)``, ``('head',)``, what a segmentor's classifier reads, indices of
            feature maps, or ``('backbone.2',)``, of the backbone's; ``('levels',)`` stands for
            all feature maps, ``('memory',)`` for all of what a transformer's encoder returns.
        temperature: T.
        weight: see :class:`DistillationLoss`.
        adapter: as of :class:`~kd_dense.losses.imitation.FeatureImitation`; one for each stage.
            Logits have none.

    Raises:
        SetupError: an unknown choice or a temperature that is not positive.
    """

    def __init__(
        self,
        stages: Sequence[int | str] = ('logits',),
        temperature: float = 4.0,
        weight: float = 3.0,
        adapter: str = 'auto',
    ) -> None:
        super().__init__(weight)
        stages = check_stages(stages)
        check_temperature(temperature)
        self.options = adapter_options(adapter)
        self.reads = tuple(dict.fromkeys(map(stage_reads, stages)))
        self.stages = stages
        self.temperature = temperature
        self.adapter = adapter
        self.adapters = nn.ModuleList()

    def connect(self, student: nn.Module, teacher: Teacher) -> None:
        """Build one adapter for each stage."""
        if self.options is None:
            return
        for stage, channels in paired_stages(self, self.stages, student, teacher):
            if stage == 'logits':
                self.adapters.append(nn.Identity())
            else:
                layers = build_adapters([channels], self.options, self.adapter != 'auto')
                self.adapters.extend(layers)

    def init_weights(self) -> None:
        """Initialise the adapters."""
        reset_adapters(self.adapters)

    def forward(self, student: View, teacher: View) -> Tensor:
        """The raw loss of one batch, a scalar."""
        levels = len(student.features) if set(GROUPS) & set(self.stages) else 0
        stages = all_stages(self.stages, levels)
        adapters = self.adapters or [nn.Identity()] * len(stages)
        values = []
        for stage, adapter in zip(stages, adapters, strict=True):
            ours = adapter(student.stage(stage).float())
            size = size_of(ours)
            valid = student.valid_at(size)
            total = channel_kl(ours, teacher_map(teacher, stage, size), valid, self.temperature)
            images = valid.flatten(1).any(dim=1).sum()
            values.append(total / ours.shape[1] / global_divisor(images))
        return torch.stack(values).sum()
