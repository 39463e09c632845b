"""What every host family shares: the batch, and the description of a host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn


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
        """Unpadded (height, width) of each image in pixels."""
        full = tuple(self.images.shape[-2:])
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


@dataclass(frozen=True)
class HostInfo:
    """What has to agree between teacher and student, read off one built model.

    Args:
        family: host family, e.g. ``'one-stage'``.
        strides: pixels per position of each feature level.
        num_classes: foreground classes.
        activation: how class logits become scores, ``'sigmoid'`` or ``'softmax'``.
        num_anchors: predictions per position.
        boxes: how boxes are encoded, e.g. ``'distribution over 17 bins'``.
        head: class name of the head, for messages.
        anchors: their shapes in words, where a position has several.
        roi_scores: how class logits of proposals become scores; empty without a second stage.
        roi_boxes: how boxes of proposals are encoded; empty without a second stage.
    """

    family: str
    strides: tuple[int, ...]
    num_classes: int
    activation: str
    num_anchors: int
    boxes: str
    head: str = field(compare=False)
    anchors: str = ''
    roi_scores: str = ''
    roi_boxes: str = ''

    @property
    def num_levels(self) -> int:
        """Feature levels."""
        return len(self.strides)


@contextmanager
def noting(owner: Any, method: str, note: Callable[..., None]) -> Iterator[None]:
    """While inside, call ``note(inputs, output)`` after each ``owner.method(*inputs)``.

    The host's code runs unchanged; the note is removed on the way out, also after an error.
    A module's ``forward`` is watched through a forward hook, so that other hooks keep working.
    """
    if method == 'forward' and isinstance(owner, nn.Module):
        handle = owner.register_forward_hook(lambda _, inputs, output: note(inputs, output))
        try:
            yield
        finally:
            handle.remove()
        return
    original = getattr(owner, method)
    watched = vars(owner).get(method)  # by something else already

    def noted(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        note(args, output)
        return output

    object.__setattr__(owner, method, noted)
    try:
        yield
    finally:
        object.__delattr__(owner, method)
        if watched is not None:
            object.__setattr__(owner, method, watched)
