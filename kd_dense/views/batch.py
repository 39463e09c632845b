"""One batch as a model sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch as the student sees it.

    Args:
        images: normalised and padded by the student's own preprocessor, (N, 3, H, W).
        samples: N data samples; ``img_shape`` (h, w) in pixels tells the unpadded size.
    """

    images: Tensor
    samples: Sequence[BaseDataElement]

    def image_sizes(self) -> list[tuple[int, int]]:
        """Unpadded (height, width) of each image in pixels; the padded one where none is told."""
        full = (self.images.shape[-2], self.images.shape[-1])
        if not self.samples:  # plain images, of which nothing is said
            return [full] * len(self.images)
        return [tuple(s.metainfo.get('img_shape', full)[:2]) for s in self.samples]

    def inside(self, size: tuple[int, int], stride: float) -> Tensor:
        """Which positions of a map start inside their image, not in the padding.

        Args:
            size: (h, w) of the map.
            stride: pixels per position.

        Returns:
            bool, (N, h, w).
        """
        device = self.images.device
        rows = torch.arange(size[0], device=device) * stride
        columns = torch.arange(size[1], device=device) * stride
        return torch.stack(
            [(rows < h)[:, None] & (columns < w)[None, :] for h, w in self.image_sizes()]
        )
