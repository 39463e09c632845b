"""Show a teacher the images its own way: its mean, std and channel order."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host
from ..views import Batch


@dataclass(frozen=True)
class Preprocessing:
    """What a data preprocessor does to images.

    Attributes:
        mean: in its own channel order, (3,); 0 where it does not normalise.
        std: the same, 1 where it does not normalise.
        swaps_channels: whether it reverses the order of the channels.
        pad_value: what it pads normalised images with.
        pad_divisor: what it pads height and width to a multiple of.
    """

    mean: Tensor
    std: Tensor
    swaps_channels: bool
    pad_value: float
    pad_divisor: int


def preprocessing_of(preprocessor: Host) -> Preprocessing | None:
    """Read what a preprocessor does; return None for an unknown kind."""
    if isinstance(preprocessor, ImgDataPreprocessor):
        names = ('_channel_conversion', 'pad_value', 'pad_size_divisor')
    elif hasattr(preprocessor, 'seg_pad_val'):  # mmsegmentation 1.2's, a kind of its own
        names = ('channel_conversion', 'pad_val', 'size_divisor')
    else:
        return None
    swaps, value, divisor = (getattr(preprocessor, name) for name in names)
    mean, std = torch.zeros(3), torch.ones(3)
    if preprocessor._enable_normalize:
        mean, std = (
            values.detach().cpu().float().reshape(-1).expand(3)
            for values in (preprocessor.mean, preprocessor.std)
        )
    return Preprocessing(mean, std, bool(swaps), float(value), divisor or 1)


def described(preprocessor: Host) -> dict[str, Any]:
    """What a preprocessor does to images, as JSON keeps it.

    Raises:
        SetupError: it is of an unknown kind.
    """
    found = _known(preprocessor, 'student')
    said = {each.name: getattr(found, each.name) for each in fields(found)}
    said |= dict(mean=found.mean.tolist(), std=found.std.tolist())
    size = getattr(preprocessor, 'size', None)  # of segmentors, which pad to it
    return said | dict(size=None if size is None else list(size))


class Renormalize(nn.Module):
    """Turn images normalised for the student into images normalised for the teacher.

    Undoes (x - mean_s) / std_s, swaps the channels where only one side swaps them, applies
    (x - mean_t) / std_t, and sets the padding to the teacher's padding value. Where both sides
    agree the images pass untouched.

    Args:
        student: the student's preprocessor.
        teacher: the teacher's preprocessor.

    Raises:
        SetupError: the two cannot be reconciled.
    """

    def __init__(self, student: Host, teacher: Host) -> None:
        super().__init__()
        ours, theirs = _reconcilable(student, teacher)
        self.scale: Tensor
        self.shift: Tensor
        self.swap = ours.swaps_channels != theirs.swaps_channels
        order = [2, 1, 0] if self.swap else [0, 1, 2]
        mean_s, std_s = ours.mean[order], ours.std[order]
        mean_t, std_t = theirs.mean, theirs.std
        self.register_buffer('scale', (std_s / std_t).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            'shift', ((mean_s - mean_t) / std_t).view(1, 3, 1, 1), persistent=False
        )
        self.pad_value = theirs.pad_value
        self.identical = (
            not self.swap
            and bool((mean_s == mean_t).all() and (std_s == std_t).all())
            and ours.pad_value == self.pad_value
        )

    def forward(self, batch: Batch) -> Tensor:
        """Renormalise the images of a batch, (N, 3, H, W) to (N, 3, H, W)."""
        if self.identical:
            return batch.images
        images = batch.images.flip(1) if self.swap else batch.images
        images = images.float() * self.scale + self.shift
        inside = batch.inside((images.shape[-2], images.shape[-1]), stride=1)
        return images.masked_fill(~inside[:, None], self.pad_value)


def _reconcilable(student: Host, teacher: Host) -> tuple[Preprocessing, Preprocessing]:
    ours, theirs = _known(student, 'student'), _known(teacher, 'teacher')
    if ours.pad_divisor % theirs.pad_divisor:
        option = 'size_divisor' if hasattr(student, 'size_divisor') else 'pad_size_divisor'
        raise SetupError(
            f'The teacher needs images padded to a multiple of {theirs.pad_divisor} pixels, '
            f'the student pads to {ours.pad_divisor}. Set '
            f'`model.student.data_preprocessor.{option}={theirs.pad_divisor}`.'
        )
    return ours, theirs


def _known(preprocessor: Host, role: str) -> Preprocessing:
    found = preprocessing_of(preprocessor)
    if found is None:
        raise SetupError(
            f"The {role}'s data preprocessor is a {type(preprocessor).__name__}, whose mean, "
            'std and channel order are unknown. Give the model a DetDataPreprocessor or '
            'SegDataPreProcessor.'
        )
    return found
