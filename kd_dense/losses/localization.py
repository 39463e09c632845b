"""Localization distillation (Zheng et al., CVPR 2022) for heads that predict edges as bins."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import OneStageView, host_info
from ..views.info import BINS
from .base import DistillationLoss, global_divisor
from .checks import check_choice, check_temperature
from .functional import softmax_kl
from .regions import REGIONS, known_to, region_demands, vlr_overlaps


def edge_kl(student: Tensor, teacher: Tensor, bins: int, temperature: float) -> Tensor:
    """KL(P(z_t/T) || P(z_s/T)) * T^2 of each box edge, summed over its bins.

    Args:
        student: logits of B boxes, (B, 4 * bins).
        teacher: same shape; detached.
        bins: n + 1 of the paper, 17 in GFL.
        temperature: T.

    Returns:
        (B, 4).

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = student.unflatten(-1, (4, bins)), teacher.unflatten(-1, (4, -1))
    return softmax_kl(student, teacher, temperature)


@MODELS.register_module()
class LocalizationDistillation(DistillationLoss):
    r"""Localization distillation in the main region, the valuable one, or at all positions.

    Main region: :math:`\sum_p w_p \sum_e \mathrm{KL}_{pe} T^2 / \max(\sum_p w_p, 1)` over the
    positives p of the student's own assignment and their edges e, with w the student's best class
    score (detached). Valuable localization region: the same with w = 1 over the positions whose
    DIoU with some object lies in [0.25 a, a), a being ATSS's own threshold for that object
    [1, section 3.3, algorithm 1]. All positions: w is the teacher's best class score;
    this needs no labels, and no paper has it.

    Sources: [1] Zheng et al., "Localization Distillation for Object Detection", arXiv 2102.12252,
    equations 2 to 5; [2] mmdet's ``LDHead`` (main region only) and the authors' code.

    Differs from [2]: that takes the mean of the bins, divides the main region by 4 and not by the
    sum of the weights (so it grows with the images per rank), and weights the valuable region by
    IoU and divides by 16. The authors' region is another one too: what their code calls DIoU
    divides the intersection by the anchor's area and not by the union, which at COCO's sizes
    shares a fifth of the positions with the paper's. ``variant='reference'`` computes all of that;
    its main region equals ``LDHead``'s ``loss_ld`` on the same tensors. Padding, which the
    authors' valuable region takes in up to a multiple of 32 pixels, never counts.

    Args:
        region: ``'main'``, ``'vlr'`` or ``'all'``.
        temperature: T.
        weight: see :class:`DistillationLoss`.
        variant: ``'paper'`` or ``'reference'``.

    Raises:
        SetupError: an unknown choice, a temperature that is not positive, or a published code of
            what has none.
    """

    def __init__(
        self,
        region: Literal['main', 'vlr', 'all'] = 'main',
        temperature: float = 10.0,
        weight: float = 0.25,
        variant: Literal['paper', 'reference'] = 'paper',
    ) -> None:
        super().__init__(weight)
        check_choice('region', region, ('main', 'vlr', 'all'))
        check_choice('variant', variant, ('paper', 'reference'))
        check_temperature(temperature)
        if region == 'all' and variant == 'reference':
            raise SetupError(
                "No published code distils localization at all positions; set `variant='paper'`, "
                "or a region that has some, 'main' or 'vlr'."
            )
        self.reads = ('box_logits', 'cls_logits' if region == 'all' else 'assignment')
        # the published code's valuable region is another one, and larger
        self.looks_at = region if variant == 'paper' or region == 'main' else 'all'
        self.region = region
        self.temperature = temperature
        self.variant = variant

    def demands(self, student: nn.Module) -> list[str]:
        """A GFL-like head, and what the region asks."""
        info = host_info(student)
        if BINS not in info.abilities:
            return [
                'localization distillation needs a head that predicts each box edge as a '
                f'distribution (GFLHead), found {info.head}'
            ]
        return region_demands(self.region, student)

    def forward(self, student: OneStageView, teacher: OneStageView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        reference = self.variant == 'reference'
        overlaps = vlr_overlaps(student, self.variant) if self.region == 'vlr' else None
        mask = REGIONS[self.region](student, teacher) if overlaps is None else overlaps >= 0
        mask = known_to(teacher, mask, 'box_logits')
        s, t = student.flat_box_logits[mask], teacher.flat_box_logits[mask]
        bins = s.shape[-1] // 4
        kl = edge_kl(s, t, bins, self.temperature)
        if overlaps is None:
            surer = teacher if self.region == 'all' else student
            weights = surer.flat_cls_logits[mask].detach().sigmoid().amax(dim=-1)
        elif reference:
            weights = overlaps[mask]
        else:
            weights = torch.ones_like(kl[:, 0])
        total = (kl.sum(dim=-1) * weights).sum()
        if reference:
            return total / bins / (4 if self.region == 'main' else 16)
        return total / global_divisor(weights.sum())
