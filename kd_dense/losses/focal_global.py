"""FGD: focal and global distillation of a detector's features (Yang et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from mmcv.cnn import ContextBlock
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import DenseView, View, view_class
from .adapters import adapter_options, build_adapters, paired_channels, reset_adapters
from .base import DistillationLoss, global_divisor
from .checks import check_choice, check_temperature

if TYPE_CHECKING:
    from ..teachers import Teacher


def attention_maps(features: Tensor, valid: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Where a map is active, and in which channels, each 1 on average [1, equations 3 to 6].

    Sources: [1] Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022,
    arXiv 2111.11837.

    Args:
        features: (N, C, h, w), finite.
        valid: bool, (N, h, w); other positions have no part.
        temperature: T, above 0.

    Returns:
        of the positions, (N, h, w), 0 where not valid; of the channels, (N, C).
    """
    size, channels = features.abs(), features.shape[1]
    count = valid.sum(dim=(1, 2))[:, None]
    scores = (size.mean(dim=1) / temperature).flatten(1)
    hidden = ~valid.flatten(1)
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(dim=1)
    spatial = (scores.masked_fill(hidden, 0.0) * count).view(valid.shape)
    means = (size * valid[:, None]).sum(dim=(2, 3)) / count.clamp(min=1)
    return spatial, (means / temperature).softmax(dim=1) * channels


def foreground_weights(
    boxes: Tensor, size: tuple[int, int], scale: tuple[float, float], extra: int = 0
) -> Tensor:
    """1 / the number of positions that a box touches, of the smallest box at each position.

    Args:
        boxes: xyxy in pixels, (G, 4).
        size: (h, w) of the map.
        scale: positions per pixel, along x and y.
        extra: by how many positions boxes are too large to the right and below.

    Returns:
        (h, w), 0 outside all boxes.
    """
    if not len(boxes):
        return boxes.new_zeros(size)
    per_pixel = boxes.new_tensor(scale)
    low = (boxes[:, :2] * per_pixel).floor()
    high = torch.maximum((boxes[:, 2:] * per_pixel).ceil(), low + 1) + extra
    inside = []
    for axis, length in ((1, size[0]), (0, size[1])):
        index = torch.arange(length, device=boxes.device)
        inside.append((index >= low[:, axis, None]) & (index < high[:, axis, None]))
    touched = inside[0][:, :, None] & inside[1][:, None, :]
    return (touched / (high - low).prod(dim=1)[:, None, None]).amax(dim=0)


def with_context(block: ContextBlock, features: Tensor, valid: Tensor) -> Tensor:
    """Features and what a GCNet block adds of the whole image to each position.

    As ``block(features)``, without the positions that are not valid.

    Args:
        block: of C channels, pooling by attention.
        features: (N, C, h, w), finite.
        valid: bool, (N, h, w).

    Returns:
        (N, C, h, w).
    """
    scores = block.conv_mask(features).flatten(1)
    hidden = ~valid.flatten(1)
    shares = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(dim=1)
    pooled = torch.einsum('ncp,np->nc', features.flatten(2), shares)
    return features + block.channel_add_conv(pooled[:, :, None, None])


@MODELS.register_module()
class FocalGlobal(DistillationLoss):
    r"""Features of objects and of the rest apart, weighted by the teacher's attention; and context.

    weight / N * the sum over the feature levels of

    - foreground * :math:`\sum S A^S A^C (A(F_s) - F_t)^2` inside the annotated boxes, S = 1 /
      positions of the smallest box there; background * the same outside, S = 1 / their number;
      :math:`A^S, A^C` are the teacher's attention of positions and channels;
    - attention * the absolute differences of both models' attention;
    - relation * the squared difference of both maps with their global context added, by a trained
      GCNet block for each side.

    Sources: [1] Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022,
    arXiv 2111.11837; [2] the authors' code, whose weights are: one-stage with anchors, the default;
    FCOS 1.6e-3, 8e-4, 8e-4, 8e-6 and T = 0.8; two-stage 5e-5, 2.5e-5, 5e-5, 5e-7.

    Differs from [2]: a box is the positions that it touches, where [2] takes one more row and
    column, and stretches the boxes of an image with padding over it; padding is left out of all
    terms. ``variant='reference'`` computes as [2] does. The values grow with the resolution in
    both. As in [1] the teacher's side of the relation is trained too, so both can shrink together.

    Args:
        foreground, background, attention, relation: weights of the terms; alpha, beta, gamma and
            lambda of [1].
        temperature: T of the attention.
        weight: of them all; see :class:`DistillationLoss`.
        adapter: as of :class:`~kd_dense.losses.imitation.FeatureImitation`.
        variant: ``'paper'`` or ``'reference'``.

    Raises:
        SetupError: an unknown choice, a weight below 0, or a temperature that is not positive.
    """

    reads = ('features',)

    def __init__(
        self,
        foreground: float = 1e-3,
        background: float = 5e-4,
        attention: float = 5e-4,
        relation: float = 5e-6,
        temperature: float = 0.5,
        weight: float = 1.0,
        adapter: str | Mapping[str, Any] = 'auto',
        variant: Literal['paper', 'reference'] = 'paper',
    ) -> None:
        super().__init__(weight)
        terms = dict(
            foreground=foreground, background=background, attention=attention, relation=relation
        )
        for name, value in terms.items():
            if not 0 <= value < math.inf:
                raise SetupError(f'{name} is {value}; it must be a finite number, 0 or more.')
        check_temperature(temperature)
        check_choice('variant', variant, ('paper', 'reference'))
        self.options = adapter_options(adapter)
        self.terms = terms
        self.temperature = temperature
        self.adapter = adapter
        self.variant = variant
        self.adapters = nn.ModuleList()
        self.contexts = nn.ModuleList()

    def connect(self, student: nn.Module, teacher: Teacher) -> None:
        """Build an adapter and two context blocks for each level."""
        channels = paired_channels(student, teacher)
        if self.options is not None:
            self.adapters = build_adapters(channels, self.options, self.adapter != 'auto')
        self.contexts = nn.ModuleList(
            nn.ModuleDict({side: ContextBlock(c, ratio=0.5) for side in ('student', 'teacher')})
            for _, c in channels
        )

    def init_weights(self) -> None:
        """Initialise the adapters and the context blocks."""
        reset_adapters(self)
        for block in self.contexts.modules():
            if isinstance(block, ContextBlock):
                block.reset_parameters()

    def demands(self, student: nn.Module) -> list[str]:
        """A detector whose annotated boxes are known."""
        view = view_class(student)
        if issubclass(view, DenseView):
            return []
        return [f'it needs a detector whose boxes are known, found {view.family}']

    def forward(self, student: DenseView, teacher: View) -> Tensor:
        """The raw loss of one batch, a scalar."""
        adapters = self.adapters or [nn.Identity()] * len(student.features)
        blocks: Iterable[Any] = self.contexts
        levels = zip(student.features, teacher.features, adapters, blocks, strict=True)
        totals = []
        for level, (ours, theirs, adapter, contexts) in enumerate(levels):
            ours, theirs = adapter(ours.float()), theirs.detach().float()
            if ours.shape != theirs.shape:
                raise SetupError(
                    f'Features of level {level} have shape {tuple(ours.shape)} in the student and '
                    f"{tuple(theirs.shape)} in the teacher. Leave `adapter='auto'`."
                )
            valid = student.level_masks()[level]
            if self.variant == 'reference':
                valid = torch.ones_like(valid)
            ours, theirs = (x.masked_fill(~valid[:, None], 0.0) for x in (ours, theirs))
            found = self._compare(ours, theirs, valid, self._weights(student, level, valid))
            both = zip((ours, theirs), ('student', 'teacher'), strict=True)
            seen = [with_context(contexts[side], x, valid) for x, side in both]
            found['relation'] = ((seen[0] - seen[1]).square() * valid[:, None]).sum()
            totals += [self.terms[name] * value for name, value in found.items()]
        images = student.features[0].new_tensor(len(student.features[0]))
        return torch.stack(totals).sum() / global_divisor(images)

    def _compare(
        self, ours: Tensor, theirs: Tensor, valid: Tensor, weights: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The terms on one level that train nothing: foreground, background and attention."""
        spatial, channels = attention_maps(theirs, valid, self.temperature)
        spatial_s, channels_s = attention_maps(ours, valid, self.temperature)
        error = ((ours - theirs).square() * channels[:, :, None, None]).sum(dim=1) * spatial
        found = {name: (error * each).sum() for name, each in weights.items()}
        found['attention'] = (spatial - spatial_s).abs().sum() + (channels - channels_s).abs().sum()
        return found

    def _weights(self, student: DenseView, level: int, valid: Tensor) -> dict[str, Tensor]:
        """What each position of a level, (N, h, w), counts in the two terms of features."""
        h, w = student.level_sizes[level]
        extra, per_pixel = 0, (1 / student.strides[level],) * 2
        each = []
        for boxes, (height, width) in zip(student.boxes, student.batch.image_sizes(), strict=True):
            if self.variant == 'reference':
                extra, per_pixel = 1, (w / width, h / height)
            each.append(foreground_weights(boxes, (h, w), per_pixel, extra))
        foreground = torch.stack(each) * valid
        outside = valid & (foreground == 0)
        count = outside.sum(dim=(1, 2), keepdim=True).clamp(min=1)
        return dict(foreground=foreground, background=outside / count)
