"""What mmdet's dense heads tell about themselves, brought to one form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmdet.models.dense_heads import AnchorHead, ATSSHead, FCOSHead, GFLHead
from torch import Tensor, nn


class Assignment(NamedTuple):
    """The student's own label assignment, all levels side by side.

    Attributes:
        anchors: xyxy in pixels, (N, P, 4); None for heads that tell none. All 0 where the
            assigner was not shown them, in the padding.
        labels: (N, P), 0 to K-1 for positives, K for background.
        box_targets: as the head defines them, (N, P, 4); GFL-like heads: xyxy in pixels.
        label_weights: what each label counts in the class loss, (N, P), 0 where it was not
            sampled or is ignored; None for heads in which all count.
    """

    anchors: Tensor | None
    labels: Tensor
    box_targets: Tensor
    label_weights: Tensor | None = None


def flatten_levels(maps: tuple[Tensor, ...] | list[Tensor], channels: int) -> Tensor:
    """Put the maps of all levels side by side, one row per prediction.

    Args:
        maps: L maps of shape (N, A * channels, H, W).
        channels: values per prediction.

    Returns:
        (N, P, channels).
    """
    rows = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps]
    return torch.cat(rows, dim=1)


def strides_of(head: nn.Module) -> tuple[int, ...]:
    """Pixels per position of each level of a dense head."""
    strides = getattr(head, 'prior_generator', head).strides
    return tuple(int(s[0] if isinstance(s, tuple | list) else s) for s in strides)


def anchors_of(head: nn.Module) -> str:
    """Shapes of a dense head's anchors, in words; empty for heads without."""
    generator = getattr(head, 'prior_generator', None)
    if not hasattr(generator, 'ratios'):
        return ''
    scales, ratios = (  # of all levels together; SSD has some for each
        ', '.join(f'{value:.4g}' for each in values for value in torch.as_tensor(each).reshape(-1))
        for values in (generator.scales, generator.ratios)
    )
    return f'scales {scales} and ratios {ratios} of {tuple(generator.base_sizes)} pixels'


def read_targets(head: nn.Module, targets: tuple, num_images: int) -> Assignment | None:
    """Bring what mmdet's ``get_targets`` methods return to one form; None for one we don't know."""
    method = type(head).get_targets
    if method is FCOSHead.get_targets:
        labels, boxes = targets[:2]
        return Assignment(
            None,
            torch.cat([level.reshape(num_images, -1) for level in labels], dim=1),
            torch.cat([level.reshape(num_images, -1, 4) for level in boxes], dim=1),
        )
    if method in (GFLHead.get_targets, ATSSHead.get_targets):
        anchors, labels, weights, boxes = (torch.cat(levels, 1) for levels in targets[:4])
        return Assignment(anchors, labels, boxes, weights)
    if method is AnchorHead.get_targets:
        labels, weights, boxes = (torch.cat(levels, 1) for levels in targets[:3])
        return Assignment(None, labels, boxes, weights)
    return None
