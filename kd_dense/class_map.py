"""A teacher of other or fewer classes: which of its classes is which of the training set's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .building import did_you_mean
from .errors import SetupError

BY_NAME = 'by name'
REST = 'background'


class ClassMap(NamedTuple):
    """Classes that a teacher and the training set share.

    Hinton et al., arXiv 1503.02531, section 5: a specialist knows some classes and lumps all others
    together. What is lumped of a softmax is the background, and what the teacher does not know.

    Attributes:
        names: of the shared classes, as the training set calls them.
        ours: their indices in the training set.
        theirs: their indices in the teacher.
        count: how many classes the training set has.
        rest: (ours, theirs) indices of a class called background; None where there is none.
    """

    names: tuple[str, ...]
    ours: tuple[int, ...]
    theirs: tuple[int, ...]
    count: int
    rest: tuple[int, int] | None

    def known(self, labels: Tensor) -> Tensor:
        """Which labels are of shared classes; bool, of the same shape."""
        return torch.isin(labels, labels.new_tensor(self.ours))

    def columns(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the shared classes, side by side.

        Args:
            student: logits with classes last, (..., K).
            teacher: the same, (..., M).
        """
        return student[..., list(self.ours)], teacher[..., list(self.theirs)]

    def grouped(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a softmax over the shared classes and all else together, which comes last.

        Args:
            student: logits with classes last, (..., K), or K + 1 with the background last.
            teacher: the same, (..., M) or M + 1.

        Raises:
            SetupError: neither has a background, so that nothing stands for the other classes.
        """
        if student.shape[-1] > self.count:
            rest = (student.shape[-1] - 1, teacher.shape[-1] - 1)
        elif self.rest is not None:
            rest = self.rest
        else:
            raise SetupError(
                'A teacher of some of the classes needs a class that stands for the others: the '
                f'background of a detector, or one called {REST!r}. Compare scores by sigmoid, or '
                'take a teacher of all classes.'
            )
        pairs = [(o, t) for o, t in zip(self.ours, self.theirs, strict=True) if o != rest[0]]
        ours, theirs = [o for o, _ in pairs], [t for _, t in pairs]
        found = []
        for logits, kept in ((student, ours), (teacher, theirs)):
            others = [i for i in range(logits.shape[-1]) if i not in kept]
            lumped = logits[..., others].logsumexp(dim=-1, keepdim=True)
            found.append(torch.cat([logits[..., kept], lumped], dim=-1))
        return found[0], found[1]


def map_classes(
    ours: Sequence[str], theirs: Sequence[str], renamed: Mapping[str, str] | None = None
) -> ClassMap:
    """Find the classes that a teacher and a training set share, by name.

    Args:
        ours: classes of the training set, in order.
        theirs: classes of the teacher, in order.
        renamed: what the training set calls classes of the teacher, where it calls them otherwise.

    Raises:
        SetupError: a name that one of the two does not have, or nothing is shared.
    """
    renamed = dict(renamed or {})
    for source, target in renamed.items():
        for name, known, who in ((source, theirs, 'teacher'), (target, ours, 'training set')):
            if name not in known:
                raise SetupError(
                    f'`classes` of the teacher names {name!r}, which the {who} does not know.'
                    f'{did_you_mean(name, list(known))} It knows {", ".join(known)}.'
                )
    called = [renamed.get(name, name) for name in theirs]
    shared = [(index, called.index(name)) for index, name in enumerate(ours) if name in called]
    if not shared:
        raise SetupError(
            f'The teacher knows none of the classes of the training set: it knows '
            f'{", ".join(theirs)}, the training set {", ".join(ours)}. Say what is what: '
            "`classes=dict(automobile='car')`."
        )
    rest = (list(ours).index(REST), called.index(REST)) if {REST} <= {*ours} & {*called} else None
    names = tuple(ours[index] for index, _ in shared)
    return ClassMap(names, *zip(*shared, strict=True), len(ours), rest)  # type: ignore[call-arg, arg-type]
