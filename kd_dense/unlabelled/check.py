"""What a distillation with unlabelled images asks for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log

from ..building import listed
from ..errors import SetupError
from ..teachers import Teacher
from ..views import Batch
from .parts import is_labelled

SUFFIX = '_unlabelled'  # of the names of losses


def check_unlabelled(
    weight: Any,
    own_loss: bool,
    losses: Collection[str],
    teachers: Mapping[str, Teacher],
    peers: Sequence[str],
) -> None:
    """Check what a distiller is to do with unlabelled images.

    Args:
        weight: of their losses.
        own_loss: whether the student's own loss runs.
        losses: their names.
        teachers: by name.
        peers: names of the students beside the student.

    Raises:
        SetupError: the weight is none, or nothing can be learnt from them so.
    """
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 <= weight < math.inf:
        raise SetupError(
            f'unlabelled_weight is {weight!r}; it is a finite number, 0 or more, or None where all '
            'images are labelled.'
        )
    if not own_loss:
        raise SetupError(
            'With `own_loss=False` no image needs labels, and all count alike. Leave '
            '`unlabelled_weight` out.'
        )
    if not losses:
        raise SetupError(
            'Images without labels teach by distillation losses, and there are no `losses`. Leave '
            '`unlabelled_weight` out, or name losses.'
        )
    live = [*peers, *(name for name, each in teachers.items() if each.of_this_step)]
    if live:
        raise SetupError(
            f'Images without labels are shown to finished teachers, and {", ".join(live)} computes '
            'what it shows in an own loss, which needs labels. Leave `unlabelled_weight` out, or '
            'train without it.'
        )
    stored = [name for name, each in teachers.items() if each.of_training_set]
    if stored:
        raise SetupError(
            f'The store of {", ".join(stored)} holds labelled images alone. Leave '
            '`unlabelled_weight` (--unlabelled) out, or the store (--stored).'
        )


def check_all_labelled(batch: Batch) -> None:
    """Check that the own loss may see all images of a batch.

    Raises:
        SetupError: one is marked as unlabelled.
    """
    if not all(map(is_labelled, batch.samples)):
        raise SetupError(
            'The batch holds images without labels (`labelled=False`), which the own loss would '
            'take for empty ones. Say what their losses are multiplied by: '
            '`model.unlabelled_weight=1`.'
        )


def tell_who_learns(counting: Sequence[str], asking: Collection[str]) -> None:
    """Log which losses images without labels teach by.

    Args:
        counting: names of the losses that have a weight.
        asking: names of those that have asked for annotations.

    Raises:
        SetupError: all of them have.
    """
    asked = f'{listed(sorted(asking))} {"asks" if len(asking) == 1 else "ask"}'
    without = [name for name in counting if name not in asking]
    if not without:
        raise SetupError(
            f'Images without labels teach nothing here: {asked} for what annotations tell. Take '
            'or add a loss that does not, such as those of the recipes pkd, cwd and hint, or leave '
            'the images without labels out.'
        )
    text = f'Images without labels teach by {listed(without)}; {asked} for annotations.'
    print_log(text, 'current')
