"""Layers that bring student features to the teacher's shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SetupError
from ..views import host_info, level_channels, stage_channels, view_class
from .maps import all_stages, resized, stage_name

if TYPE_CHECKING:
    from ..teachers import Teacher
    from .base import DistillationLoss

# what an adapter is configured by, and what that is where it is left out
OPTIONS = dict(kernel=1, relu=False, norm=False)
NAMED = {
    'auto': OPTIONS,  # only where the channels differ
    'conv1x1': OPTIONS,
    'conv3x3': OPTIONS | dict(kernel=3),
}


def adapter_options(adapter: str | Mapping[str, Any]) -> dict[str, Any] | None:
    """The options of an adapter from a config; None for ``'none'``.

    Args:
        adapter: ``'auto'``, ``'conv1x1'``, ``'conv3x3'``, ``'none'``, or a dict that may have
            ``kernel`` (1 or 3), ``relu`` and ``norm``.

    Raises:
        SetupError: an unknown name, key or value.
    """
    if isinstance(adapter, str):
        if adapter not in (*NAMED, 'none'):
            raise SetupError(
                f'adapter is {adapter!r}; choose one of {", ".join(map(repr, NAMED))}, '
                "'none', or a dict such as dict(kernel=3, relu=True, norm=True)."
            )
        return None if adapter == 'none' else dict(NAMED[adapter])
    options = OPTIONS | dict(adapter)
    if set(options) != set(OPTIONS) or options['kernel'] not in (1, 3):
        raise SetupError(
            f'adapter is {dict(adapter)}; its keys are {", ".join(OPTIONS)}, and the kernel is 1 '
            'or 3.'
        )
    return options


def adapter_layer(
    channels_in: int, channels_out: int, kernel: int = 1, relu: bool = False, norm: bool = False
) -> nn.Module:
    """A convolution, then batch norm and ReLU where asked for; the size of the map stays."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=not norm)
    layers: list[nn.Module] = [convolution]
    if norm:
        layers.append(nn.BatchNorm2d(channels_out))
    if relu:
        layers.append(nn.ReLU())
    return convolution if len(layers) == 1 else nn.Sequential(*layers)


def build_adapters(
    channels: Iterable[tuple[int, int]],
    options: Mapping[str, Any] | None = None,
    always: bool = False,
) -> nn.ModuleList:
    """One layer for each map: a convolution where the channels differ, else the identity.

    Args:
        channels: of each map, the student's and the teacher's.
        options: see :func:`adapter_layer`; None for a 1x1 convolution.
        always: a convolution also where the channels agree.
    """
    return nn.ModuleList(
        adapter_layer(s, t, **(options or {})) if always or s != t else nn.Identity()
        for s, t in channels
    )


def reset_adapters(adapters: nn.Module) -> None:
    """Give all convolutions and batch norms of adapters new weights."""
    for layer in adapters.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.reset_parameters()


def paired_channels(student: nn.Module, teacher: Teacher) -> list[tuple[int, int]]:
    """Channels of each feature level, the student's and the teacher's.

    Args:
        student: the built model.
        teacher: not loaded yet.

    Raises:
        SetupError: they have different numbers of levels.
    """
    ours = level_channels(student)
    theirs = teacher.level_channels()
    if len(ours) != len(theirs):
        raise SetupError(
            f'The teacher has {len(theirs)} feature levels (channels {theirs}), the student '
            f'{len(ours)} (channels {ours}). Give both necks the same number of outputs.'
        )
    return list(zip(ours, theirs, strict=True))


def paired_stages(
    loss: DistillationLoss, stages: Sequence[int | str], student: nn.Module, teacher: Teacher
) -> list[tuple[int | str, tuple[int, int]]]:
    """Each stage that a loss reads, with the channels of the student's and the teacher's map.

    Args:
        loss: which reads the stages.
        stages: as in its config.
        student: the built model.
        teacher: not loaded yet.

    Returns:
        nothing where a side lacks what the loss reads: that is refused with the pair.
    """
    view = view_class(student)
    if not all(hasattr(view, name) and teacher.offers(name) for name in loss.read_names()):
        return []
    found = []
    for stage in all_stages(stages, host_info(student).num_levels):
        read = stage_name(stage)
        found.append((stage, (stage_channels(student, stage, read), teacher.channels(stage, read))))
    return found


def align(features: Tensor, mask: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Bring features, and the positions to compare, to another size; untouched if they have it.

    Features are interpolated linearly between the centres of positions; a position of the new map
    is compared where the old one's position at its centre is.

    Args:
        features: (N, C, h, w).
        mask: bool, (N, h, w).
        size: (H, W).

    Returns:
        features (N, C, H, W) and mask (N, H, W).
    """
    if tuple(features.shape[-2:]) == tuple(size):
        return features, mask
    features = resized(features, (size[0], size[1]))
    mask = F.interpolate(mask[:, None].float(), tuple(size), mode='nearest-exact')[:, 0] > 0
    return features, mask
