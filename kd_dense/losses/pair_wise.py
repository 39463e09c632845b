"""Pair-wise distillation: how alike the parts of an image look to the teacher."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SetupError
from ..registry import MODELS
from ..views import View
from .base import DistillationLoss, global_divisor
from .checks import check_choice
from .maps import check_stage, size_of, stage_reads, teacher_map

EPSILON = 1e-6  # against division by the norm of an all-zero node


def pool_nodes(features: Tensor, valid: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Max-pool a map to nodes: patches of ``scale`` times the map's height and width.

    Patches at the right and lower edge may be cut short. Positions that are not valid are left out
    of the maximum.

    Args:
        features: (N, C, h, w).
        valid: bool, (N, h, w).
        scale: above 0, at most 1; patches are at least 1 x 1.

    Returns:
        nodes (N, C, M), 0 where a patch has no valid position, and which have one, bool (N, M).
    """
    size = [max(1, int(n * scale)) for n in features.shape[-2:]]

    def pool(maps: Tensor) -> Tensor:
        return F.max_pool2d(maps, size, stride=size, ceil_mode=True).flatten(2)

    counted = pool(valid[:, None].to(features.dtype))[:, 0] > 0
    nodes = pool(features.masked_fill(~valid[:, None], -torch.inf))
    return nodes.masked_fill(~counted[:, None], 0.0), counted


def affinity(nodes: Tensor, constant_norm: bool = False) -> Tensor:
    """Cosines between the nodes of each image: (N, C, M) to (N, M, M).

    Args:
        nodes: features of M nodes.
        constant_norm: let no gradient through the norms, as the published code has it.
    """
    if nodes.dtype.itemsize < 4:
        nodes = nodes.float()  # the square of a small number is 0 in half precision
    norm = nodes.square().sum(dim=1, keepdim=True).clamp(min=EPSILON**2).sqrt()
    unit = nodes / (norm.detach() if constant_norm else norm)
    return torch.einsum('ncm,nck->nmk', unit, unit)


@MODELS.register_module()
class PairWise(DistillationLoss):
    """The affinities between all pairs of nodes of a feature map are the teacher's.

    ``a_ij = f_i . f_j / (|f_i| |f_j|)``; weight * sum over images and pairs of
    ``(a_ij^s - a_ij^t)^2`` / number of pairs, global over ranks. Nodes are max-pooled patches;
    those without a valid pixel do not count. Channels need not agree, and a teacher's map of
    another size is brought to the student's.

    Sources: [1] Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR
    2019, arXiv 1903.04197, equation 3, lambda_1 = 10 (0.5 in its script).

    Differs from [1]'s code, which counts padding and ignored pixels and lets no gradient through
    the norms; ``variant='reference'`` does both.

    Args:
        weight: see :class:`DistillationLoss`.
        stage: ``'head'``, what the segmentor's classifier reads, the index of a feature map,
            or ``'backbone.2'``, of the backbone's.
        pooling_scale: size of a patch as a share of the map; 0.5 in [1]'s code, which gives 3 x 3
            nodes on an odd map, 2 x 2 on an even one. Memory grows with the nodes' square.
        max_nodes: the most nodes per image; more are an error. 4,096 take 64 MiB an image.
        variant: ``'paper'`` or ``'reference'``.

    Raises:
        SetupError: an unknown choice, a scale outside (0, 1], or more nodes than allowed.
    """

    def __init__(
        self,
        weight: float = 10.0,
        stage: int | str = 'head',
        pooling_scale: float = 0.5,
        max_nodes: int = 4096,
        variant: Literal['paper', 'reference'] = 'paper',
    ) -> None:
        super().__init__(weight)
        check_stage(stage)
        check_choice('variant', variant, ('paper', 'reference'))
        if not 0 < pooling_scale <= 1:
            raise SetupError(
                f'pooling_scale is {pooling_scale}; it is a share of the map, above 0, at most 1.'
            )
        self.reads = (stage_reads(stage),)
        self.stage = stage
        self.pooling_scale = pooling_scale
        self.max_nodes = max_nodes
        self.variant = variant

    def forward(self, student: View, teacher: View) -> Tensor:
        """The raw loss of one batch, a scalar."""
        features = student.stage(self.stage).float()
        size = size_of(features)
        self._check_memory(size)
        reference = self.variant == 'reference'
        valid = student.valid_at(size)
        valid = torch.ones_like(valid) if reference else valid
        ours, counted = pool_nodes(features, valid, self.pooling_scale)
        theirs, _ = pool_nodes(teacher_map(teacher, self.stage, size), valid, self.pooling_scale)
        error = (affinity(ours, reference) - affinity(theirs, reference)).square()
        pairs = counted[:, :, None] & counted[:, None, :]
        return (error * pairs).sum() / global_divisor(pairs.sum())

    def _check_memory(self, size: tuple[int, int]) -> None:
        nodes = math.prod(math.ceil(n / max(1, int(n * self.pooling_scale))) for n in size)
        if nodes > self.max_nodes:
            raise SetupError(
                f'A map of {size[0]} x {size[1]} pooled in patches of {self.pooling_scale} of it '
                f'has {nodes} nodes, max_nodes allows {self.max_nodes}: an affinity matrix of '
                f'{nodes**2 * 4 / 2**20:.0f} MiB for each image. Choose a larger pooling_scale, '
                'or allow more.'
            )
