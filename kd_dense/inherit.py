"""Let a student start with parts of its teacher: the neck and the head."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.logging import print_log
from torch import nn

from .errors import SetupError
from .hosts.checkpoints import compare_weights, model_state
from .teachers import Teacher

OWN = ('backbone', 'data_preprocessor')  # what a student keeps where it inherits all it can


class Inheritance:
    """What a student starts with of its teacher.

    Args:
        asked: names of parts, such as ``['neck', 'bbox_head']``; True for all but the backbone;
            False for nothing.

    Raises:
        SetupError: something else.
    """

    def __init__(self, asked: bool | str | Sequence[str]) -> None:
        if isinstance(asked, str):
            asked = [asked]
        names = isinstance(asked, Sequence) and all(isinstance(name, str) for name in asked)
        if not isinstance(asked, bool) and not names:
            raise SetupError(
                f'inherit is {asked!r}; it is True (all of the teacher but its backbone), False, '
                "or a list of parts such as ['neck', 'bbox_head']."
            )
        self.asked = asked
        self.parts: tuple[str, ...] = ()

    def check(self, student: nn.Module, teacher: Teacher) -> None:
        """Check that each part fits.

        Args:
            student: the built model.
            teacher: not loaded yet: loading may fold its layers.

        Raises:
            SetupError: a part is not there or does not fit, or the teacher has no checkpoint.
        """
        if not self.asked:
            return
        theirs = teacher.model
        if theirs is None or teacher.untrained:
            raise SetupError(
                f'inherit copies weights of the {teacher.name}, which has no checkpoint to copy '
                'them from. Set `inherit=False`.'
            )
        known = _parts(theirs)
        parts = known if self.asked is True else list(self.asked)
        misfits = {part: _misfit(part, student, theirs) for part in [*parts, *known]}
        refused = [f'{part}: {misfits[part]}' for part in parts if misfits[part]]
        if refused:
            fitting = [part for part in known if not misfits[part]]
            raise SetupError(
                f'The student cannot inherit these parts of the {teacher.name}:\n  - '
                + '\n  - '.join(refused)
                + (f'\nThese fit: `inherit={fitting}`.' if fitting else '\nSet `inherit=False`.')
            )
        self.parts = tuple(parts)

    def copy(self, student: nn.Module, teacher: Teacher) -> None:
        """Copy the checked parts, every weight and buffer, from the teacher's checkpoint.

        Args:
            student: the built model, initialised.
            teacher: loaded, so its checkpoint is known to be complete.
        """
        if not self.parts:
            return
        state = model_state(teacher.read_checkpoint() or {})
        count = 0
        for part in self.parts:
            prefix = f'{part}.'
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            # not strict: old checkpoints lack the batch counters of batch norms
            student.get_submodule(part).load_state_dict(own, strict=False)
            count += len(own)
        print_log(
            f'The student starts with the {" and ".join(self.parts)} of the {teacher.name} '
            f'({count} weights of {teacher.source}); what `load_from` or --resume reads replaces '
            'them.',
            'current',
        )


def _parts(model: nn.Module) -> list[str]:
    """Names of the parts with weights that a student may inherit, in order."""
    return [
        name
        for name, part in model.named_children()
        if name not in OWN and next(part.parameters(), None) is not None
    ]


def _misfit(part: str, student: nn.Module, teacher: nn.Module) -> str:
    """Why a part of the teacher does not fit the student; empty where it does."""
    found = {}
    for whose, model in (('student', student), ('teacher', teacher)):
        found[whose] = dict(model.named_modules()).get(part)
        if not part or found[whose] is None:
            return f'the {whose} has no such part, it has {", ".join(_parts(model))}'
    ours, theirs = found['student'], found['teacher']
    if type(ours) is not type(theirs):
        return f"the teacher's is a {type(theirs).__name__}, the student's a {type(ours).__name__}"
    fit = compare_weights(ours, theirs.state_dict())
    return '' if fit.complete else f"the teacher's weights are of another shape: {fit}"
