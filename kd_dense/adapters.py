"""Layers that bring student features to the teacher's shape."""

from __future__ import annotations

import torch
from torch import nn

from .errors import SetupError
from .hosts import own_randomness
from .views import Batch, view_class


def feature_channels(model: nn.Module) -> list[int]:
    """Channels of each feature level, found by looking at one small black picture.

    The model is left as it was: same mode, no gradients, no batch statistics.
    """
    training = [m for m in model.modules() if m.training]
    model.eval()
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, 128, 128, device=parameter.device, dtype=parameter.dtype)
    try:
        features = view_class(model)(model, Batch(image, []), torch.no_grad).features
    finally:
        for module in training:
            module.training = True
    return [f.shape[1] for f in features]


def build_adapters(student: nn.Module, teacher: nn.Module, always: bool = False) -> nn.ModuleList:
    """One layer per level: a 1x1 convolution where the channels differ, else the identity.

    Args:
        student, teacher: the built models.
        always: use a convolution also where the channels agree.

    Raises:
        ValueError: the models have different numbers of levels.
    """
    with own_randomness():
        ours, theirs = feature_channels(student), feature_channels(teacher)
        if len(ours) != len(theirs):
            raise SetupError(
                f'The teacher has {len(theirs)} feature levels (channels {theirs}), the student '
                f'{len(ours)} (channels {ours}). Give both necks the same number of outputs.'
            )
        return nn.ModuleList(
            nn.Conv2d(s, t, 1) if always or s != t else nn.Identity()
            for s, t in zip(ours, theirs, strict=True)
        )
