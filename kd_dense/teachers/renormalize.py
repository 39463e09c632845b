"""Show a teacher the images its own way: its mean, std and channel order."""

from __future__ import annotations

import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host
from ..views import Batch


def statistics(preprocessor: ImgDataPreprocessor) -> tuple[Tensor, Tensor]:
    """Mean and std of a preprocessor in its own channel order, two (3,) tensors."""
    if not preprocessor._enable_normalize:
        return torch.zeros(3), torch.ones(3)
    mean = preprocessor.mean.detach().cpu().float().reshape(-1).expand(3)
    return mean, preprocessor.std.detach().cpu().float().reshape(-1).expand(3)


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
        _check_reconcilable(student, teacher)
        mean_s, std_s = statistics(student)
        mean_t, std_t = statistics(teacher)
        self.scale: Tensor
        self.shift: Tensor
        self.swap = student._channel_conversion != teacher._channel_conversion
        order = [2, 1, 0] if self.swap else [0, 1, 2]
        mean_s, std_s = mean_s[order], std_s[order]
        self.register_buffer('scale', (std_s / std_t).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            'shift', ((mean_s - mean_t) / std_t).view(1, 3, 1, 1), persistent=False
        )
        self.pad_value = float(teacher.pad_value)
        self.identical = (
            not self.swap
            and bool((mean_s == mean_t).all() and (std_s == std_t).all())
            and float(student.pad_value) == self.pad_value
        )

    def forward(self, batch: Batch) -> Tensor:
        """Renormalise the images of a batch, (N, 3, H, W) to (N, 3, H, W)."""
        if self.identical:
            return batch.images
        images = batch.images.flip(1) if self.swap else batch.images
        images = images.float() * self.scale + self.shift
        inside = batch.inside((images.shape[-2], images.shape[-1]), stride=1)
        return images.masked_fill(~inside[:, None], self.pad_value)


def _check_reconcilable(student: Host, teacher: Host) -> None:
    for role, preprocessor in (('student', student), ('teacher', teacher)):
        if not isinstance(preprocessor, ImgDataPreprocessor):
            raise SetupError(
                f"The {role}'s data preprocessor is a {type(preprocessor).__name__}, whose mean, "
                'std and channel order are unknown. Give the model a DetDataPreprocessor or '
                'SegDataPreprocessor.'
            )
    if student.pad_size_divisor % teacher.pad_size_divisor:
        raise SetupError(
            f'The teacher needs images padded to a multiple of {teacher.pad_size_divisor} pixels, '
            f'the student pads to {student.pad_size_divisor}. Set '
            f'`model.student.data_preprocessor.pad_size_divisor={teacher.pad_size_divisor}`.'
        )
