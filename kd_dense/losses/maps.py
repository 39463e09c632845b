"""The maps that losses on whole maps can be applied to, under common names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..errors import SetupError
from ..views import BACKBONE, MEMORY, Read, View
from ..views.view import INDEXED as FOUND_IN
from .checks import softmax_demands

NAMED: dict[int | str, str] = {  # and what a loss on them reads
    'logits': 'seg_logits',
    'head': 'head_features',
}
LOGITS = {'decode': 'seg_logits', 'auxiliary': 'aux_logits'}  # a segmentor's, by their heads
OF_ANY_SIZE = Read('features', agree=('num_levels',))  # maps are brought to the student's size
LEVELS = 'levels'  # stands for all feature maps, one by one
ALL_MEMORY = 'memory'  # and for all maps that a transformer's encoder returns
GROUPS = (LEVELS, ALL_MEMORY)
# what a loss reads on maps that are called NAME.INDEX
INDEXED = {before: Read(name, agree=()) for before, name in FOUND_IN.items()}


def logits_demands(part: str, student: Any) -> list[str]:
    """What a loss on class distributions asks of a segmentor and does not find, as sentences.

    Args:
        part: one of :data:`LOGITS`.
        student: a segmentor.
    """
    if part == 'auxiliary' and not getattr(student, 'auxiliary_head', None):
        return ["part 'auxiliary' needs an auxiliary head, and the student has none"]
    return softmax_demands(student)


def check_stage(stage: int | str) -> None:
    """Raise SetupError unless a stage can be called so."""
    index = isinstance(stage, int) and not isinstance(stage, bool)
    if stage not in NAMED and not index and _indexed(stage) is None:
        raise SetupError(
            f'stage is {stage!r}; it must be the index of a feature map, '
            f"'{BACKBONE}INDEX' of a map of the backbone, '{MEMORY}INDEX' of one that a "
            f"transformer's encoder returns, or one of {', '.join(map(repr, NAMED))}: 'logits' of "
            "a segmentor's decode head, or 'head', what its classifier reads."
        )


def check_stages(stages: int | str | Sequence[int | str]) -> tuple[int | str, ...]:
    """Stages from a config, one or several, or one of :data:`GROUPS`.

    Raises:
        SetupError: there is none, or one cannot be called so.
    """
    found = (stages,) if isinstance(stages, int | str) else tuple(stages)
    if not found:
        raise SetupError(f"stages is empty; name at least one, such as '{LEVELS}'.")
    for stage in found:
        if stage not in GROUPS:
            check_stage(stage)
    return found


def all_stages(stages: Sequence[int | str], levels: int) -> tuple[int | str, ...]:
    """The stages one by one, those of :data:`GROUPS` as that many maps."""
    groups: dict[int | str, list[int | str]] = {
        LEVELS: list(range(levels)),
        ALL_MEMORY: [f'{MEMORY}{level}' for level in range(levels)],
    }
    return tuple(chain.from_iterable(groups.get(stage, [stage]) for stage in stages))


def stage_name(stage: int | str) -> str:
    """Name of the property of a view that a stage is found in."""
    read = stage_reads(stage)
    return read if isinstance(read, str) else read.name


def stage_reads(stage: int | str) -> str | Read:
    """What a loss on a stage reads of both views."""
    if stage == ALL_MEMORY:
        return INDEXED[MEMORY]
    if stage in NAMED:
        return NAMED[stage]
    return _indexed(stage) or OF_ANY_SIZE


def _indexed(stage: int | str) -> Read | None:
    text = str(stage)
    for before, read in INDEXED.items():
        if text.startswith(before) and text.removeprefix(before).isdecimal():
            return read
    return None


def teacher_map(teacher: View, stage: int | str, size: tuple[int, int]) -> Tensor:
    """The teacher's map of a stage at the student's size, in float32, detached.

    Args:
        teacher: the teacher's view.
        stage: name of the stage.
        size: (h, w) of the student's map; another one is interpolated linearly.

    Returns:
        (N, C, h, w).
    """
    return resized(teacher.stage(stage).detach().float(), size)


def size_of(maps: Tensor) -> tuple[int, int]:
    """(h, w) of maps (N, C, h, w)."""
    return maps.shape[-2], maps.shape[-1]


def resized_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (M, h, w) at another size, interpolated linearly, of any number."""
    if not len(masks):
        return masks.new_zeros(0, *size)
    return resized(masks[:, None], size)[:, 0]


def resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (N, C, h, w) at another size, interpolated linearly; untouched if it has it."""
    if size_of(features) == size:
        return features
    return F.interpolate(features, size, mode='bilinear', align_corners=False)
