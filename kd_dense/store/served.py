"""Whom a store can be written of, and what of it: what the losses of a training read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import SetupError
from ..losses.base import DistillationLoss
from ..teachers import Ensemble, FrozenTeacher, Teacher
from ..teachers.stored import MADE_OF, StoredTeacher
from .kept import AT_POSITIONS, STORABLE, Kept

PROPOSALS = ('roi_cls_logits', 'roi_deltas', 'mask_logits')


def what_to_keep(
    teacher: Teacher,
    losses: Mapping[str, DistillationLoss],
    keep: Sequence[str] = (),
    whole: bool = False,
    best: int = 0,
    dtype: str = 'float16',
) -> Kept:
    """What the losses of a config read, or what is named.

    Args:
        teacher: that is to be stored.
        losses: its losses, by name.
        keep: names of properties besides what the losses read.
        whole: whether the outputs of a dense head are kept at all positions, whatever is read.
        best, dtype: see :class:`Kept`.

    Raises:
        SetupError: a loss cannot be served from a store, or nothing is left to keep.
    """
    for name, loss in losses.items():
        if why := _why_not(loss):
            raise SetupError(
                f'losses.{name} ({type(loss).__name__}) {why}. A store cannot hold that: let the '
                'teacher of this loss run, or leave the loss out (`--cfg-options '
                f'model.losses.{name}.weight=0`).'
            )
    asked = {part for each in losses.values() for r in each.read_names() for part in made_of(r)}
    reads = tuple(name for name in STORABLE if name in asked | set(keep))
    if unknown := [name for name in keep if name not in STORABLE or not teacher.offers(name)]:
        raise SetupError(
            f'--keep {" ".join(unknown)}: this teacher has no such maps; it has '
            f'{", ".join(name for name in STORABLE if teacher.offers(name))}.'
        )
    if not reads:
        raise SetupError('No loss looks at this teacher, so there is nothing to keep: see --keep.')
    regions = {
        each.looks_at
        for each in losses.values()
        for read in each.read_names()
        if set(made_of(read)) & set(AT_POSITIONS)
        and not (best and made_of(read) == ('cls_logits',) and each.looks_at == 'all')
    }
    if whole or 'all' in regions or not set(reads) & set(AT_POSITIONS):
        if best:
            raise SetupError(
                '--best keeps class scores at some positions, and here whole maps are needed: '
                'leave it out.'
            )
        return Kept(reads, dtype=dtype)
    return Kept(reads, tuple(sorted(regions)), best, dtype)


def _why_not(loss: DistillationLoss) -> str:
    """Why a loss cannot be served from any store; empty if it can."""
    if loss.runs_teacher:
        return "runs layers of the teacher's on the student's maps"
    others = [each for each in loss.read_names() if not set(made_of(each)) <= set(STORABLE)]
    if set(others) & set(PROPOSALS):
        what = "the teacher scores the student's proposals, which are others in each step"
    else:
        what = 'which is no map'
    return f'reads {", ".join(others)}: {what}' if others else ''


def made_of(read: str) -> tuple[str, ...]:
    """What a property that a loss reads is made of, of what can be kept."""
    return MADE_OF.get(read, (read,))


def check_teacher(teacher: Teacher) -> None:
    """Check that a teacher says the same of a picture whenever it is asked.

    Raises:
        SetupError: it does not.
    """
    if isinstance(teacher, StoredTeacher):
        raise SetupError(
            f'The {teacher.name} is stored already, in {teacher.source}. Name the config whose '
            'teacher runs.'
        )
    fixed = isinstance(teacher, FrozenTeacher) or (
        isinstance(teacher, Ensemble)
        and teacher.pick == 'all'
        and all(isinstance(each, FrozenTeacher) for each in teacher.members.values())
    )
    if not fixed:
        raise SetupError(
            f'The {teacher.name} ({type(teacher).__name__}) does not say the same of a picture in '
            'each step, so it cannot be stored. Finished models can, and the mean of several.'
        )
    if teacher.maps_classes:
        raise SetupError(
            f'The {teacher.name} knows other classes than the training set, by name; a store is of '
            'a teacher with the same ones.'
        )
