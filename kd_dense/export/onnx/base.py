"""A model behind its preprocessing, as one module: what all ONNX graphs share."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ...teachers.renormalize import preprocessing_of


class Graph(nn.Module):
    """A model behind its preprocessing: images of any size are padded as the model wants them.

    Args:
        model: of mmdet or mmseg, in evaluation mode.
        normalize: whether it takes RGB images from 0 to 255; else normalised ones, in the model's
            own order of channels.

    Attributes:
        kind: what it computes, in words.
        any_batch: whether it takes several images at once.
        missing: what it leaves to its user.
    """

    kind: str
    any_batch: ClassVar[bool] = True
    missing: str = ''

    def __init__(self, model: nn.Module, normalize: bool = True) -> None:
        super().__init__()
        self.model = model
        self.normalize = normalize
        self.divisor = pad_divisor(model)

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Names of the outputs, and of their dynamic axes."""
        raise NotImplementedError

    def predict(self, images: Tensor, size: tuple) -> tuple[Tensor, ...]:
        """The outputs for normalised, padded images whose own size is given."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs for images, (N, 3, H, W)."""
        size = images.shape[-2:]
        preprocessor = self.model.data_preprocessor
        if self.normalize and channel_order(self.model) == 'BGR':
            images = images[:, [2, 1, 0]]
        if self.normalize and preprocessor._enable_normalize:
            images = (images - preprocessor.mean) / preprocessor.std
        if self.divisor > 1:
            below, right = ((-s) % self.divisor for s in images.shape[-2:])
            value = preprocessing_of(preprocessor).pad_value
            images = F.pad(images, (0, right, 0, below), value=value)
        return self.predict(images, size)


def channel_order(model: nn.Module) -> str:
    """The order of channels that a model is fed with; its images are read as BGR."""
    return 'RGB' if preprocessing_of(model.data_preprocessor).swaps_channels else 'BGR'


def pad_divisor(model: nn.Module) -> int:
    """What height and width are padded to a multiple of, in testing."""
    preprocessor = model.data_preprocessor
    if hasattr(preprocessor, 'size_divisor'):  # mmseg's, which pads in testing only by test_cfg
        return (preprocessor.test_cfg or {}).get('size_divisor') or 1
    return preprocessor.pad_size_divisor
