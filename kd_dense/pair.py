"""Checks of a pair before the first step: what was found, what was expected, the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from .errors import Finding, SetupError
from .losses.base import DistillationLoss, Losses
from .teachers import Teacher
from .views import HostInfo, Read, Readable, View, host_info, known_reads, view_class

ByName = Mapping[str, DistillationLoss] | Losses
MOST = 4  # differing classes that are named


class Difference(NamedTuple):
    """In what a teacher and a student differ, and the losses that mind.

    Attributes:
        what: name of a field of :class:`~kd_dense.views.HostInfo`.
        words: what the field is, for messages.
        ours, theirs: its values, of the student and of the teacher.
        losses: names of the losses that mind.
    """

    what: str
    words: str
    ours: object
    theirs: object
    losses: list[str]

    def __str__(self) -> str:
        minding = ', '.join(f'losses.{name}' for name in self.losses)
        return (
            f'{self.words}: the teacher has {self.theirs}, the student {self.ours} '
            f'(minded by {minding})'
        )


def must_agree(view: type[View], loss: DistillationLoss) -> set[str]:
    """Fields of :class:`~kd_dense.views.HostInfo` in which two models must agree for a loss.

    Args:
        view: the kind of the student's view, which has what the loss reads.
        loss: a distillation loss.
    """
    found: set[str] = set()
    for read in loss.reads:
        declared = read if isinstance(read, Read) else getattr(view, read, None)
        if isinstance(declared, Read | Readable):
            found.update(declared.agree)
    return found


def differences(
    student: nn.Module,
    teacher: HostInfo,
    losses: ByName,
    same_classes: bool = True,
    maps_classes: bool = False,
) -> list[Difference]:
    """In what a student and a teacher differ that any of the losses minds.

    Args:
        student: the built model.
        teacher: description of the teacher.
        losses, same_classes: see :func:`check_pair`.
        maps_classes: whether classes are found by name, for losses that ask for that.
    """
    view, ours = view_class(student), host_info(student)
    found = []
    for what, words in ours.compared().items():
        values = getattr(ours, what), getattr(teacher, what, None)
        minding = [
            name
            for name, loss in losses.items()
            if what in must_agree(view, loss)
            and not (what == 'num_classes' and maps_classes and loss.maps_classes)
        ]
        if what == 'num_classes' and same_classes:
            minding = list(losses)
        # the shapes of anchors differ wherever their number does, which is told already
        if what == 'anchors' and ours.num_anchors != teacher.num_anchors:
            continue
        # a field of one kind of view alone: that the families differ is told already
        told = values[1] is None and ours.family != teacher.family
        if minding and values[0] != values[1] and not told:
            found.append(Difference(what, words, *values, minding))
    first = [each for each in found if each.what == 'num_classes' and same_classes]
    return first + [each for each in found if each not in first]


def unmet(student: nn.Module, name: str, loss: DistillationLoss) -> list[str]:
    """What a loss asks of the student and does not find, in sentences.

    Args:
        student: the built model.
        name: of the loss.
        loss: a distillation loss.
    """
    found = _unknown(loss, student) or loss.demands(student)
    return [f'losses.{name}: {each}' for each in found]


def check_pair(student: nn.Module, teacher: Teacher, losses: ByName, name: str = 'student') -> None:
    """Check that a student and a teacher agree in what the losses compare.

    Args:
        student: the built model.
        teacher: of these losses.
        losses: distillation losses by name; each tells what it reads.
        name: what the student is called, where others train beside it.

    Raises:
        SetupError: they differ; the message names each difference and the losses that mind.
    """
    ours, theirs = host_info(student), teacher.info
    found = differences(student, theirs, losses, teacher.same_classes, teacher.maps_classes)
    findings = [str(each) for each in found]
    if teacher.maps_classes:
        findings += [
            f'losses.{each}: {type(loss).__name__} compares classes by their number, and the '
            f'{teacher.name} has them by name; losses that find them are SoftTargets and PixelWise'
            for each, loss in losses.items()
            if 'num_classes' in must_agree(view_class(student), loss) and not loss.maps_classes
        ]
    for each, loss in losses.items():
        findings += unmet(student, each, loss) or objections(teacher, each, loss, bool(found))
    if not findings:
        return
    allowed = (
        ' Other classes are allowed by `teacher.same_classes=False` (`--other-classes`), for '
        "losses that read no classes; `teacher.classes='by name'` finds which class is which."
        if teacher.same_classes and ours.num_classes != theirs.num_classes
        else ''
    )
    title = 'Teacher' if teacher.name == 'teacher' else f'Teacher {teacher.name!r}'
    raise SetupError(
        f'{title} ({theirs.head}) and {name} ({ours.head}) do not fit:\n  - '
        + '\n  - '.join(findings)
        + f'\n{what_to_do(student)}{allowed}'
    )


def what_to_do(student: nn.Module) -> str:
    """The way out where a teacher does not agree with a student, in a sentence."""
    return (
        'Choose a teacher that agrees with the student there, or leave out the losses named; '
        f'{view_class(student).served_by}.'
    )


def _unknown(loss: DistillationLoss, student: nn.Module) -> list[str]:
    """What a loss reads that is not known of this kind of host, in a sentence."""
    view = view_class(student)
    unknown = [name for name in loss.read_names() if not hasattr(view, name)]
    if not unknown:
        return []
    if not loss.reads_of_some_view():
        return [
            f'{type(loss).__name__} reads {", ".join(unknown)}, which no view has; a '
            f'{type(student).__name__} ({view.family}) offers {", ".join(known_reads(view))}'
        ]
    return [
        f'{type(loss).__name__} reads {", ".join(unknown)}, which kd_dense does not know of a '
        f'{type(student).__name__} ({view.family})'
    ]


def objections(teacher: Teacher, name: str, loss: DistillationLoss, told: bool) -> list[str]:
    """Why a teacher cannot serve a loss, in sentences.

    Args:
        teacher: of the loss.
        name: of the loss.
        loss: a distillation loss.
        told: whether a difference tells why already.
    """
    found = [] if told else teacher.objections(loss)
    return [f'losses.{name}: {type(loss).__name__} {each}' for each in found]


def other_classes(ours: Sequence[str], theirs: Sequence[str]) -> Finding | None:
    """In what the classes of a training set and of a teacher differ, in name or order.

    Args:
        ours: classes of the training set.
        theirs: classes that the teacher knows.
    """
    count = max(len(ours), len(theirs))
    differing = [i for i in range(count) if ours[i : i + 1] != theirs[i : i + 1]]
    if not differing:
        return None
    pairs = [
        f'{i} is {class_at(theirs, i)} for the teacher and {class_at(ours, i)} in the training set'
        for i in differing[:MOST]
    ]
    more = f', and {len(differing) - MOST} more' if len(differing) > MOST else ''
    shuffled = sorted(ours) == sorted(theirs)
    return Finding(
        f'{"The same classes in another order" if shuffled else "Other classes"}: class '
        f'{"; ".join(pairs)}{more}.',
        "Bring the dataset's classes into the teacher's order (its `metainfo=dict(classes=...)`, "
        'which `--classes` sets for `--data`; of COCO annotations the list `categories` too, by '
        'which mmdet numbers them), or use a teacher trained on them; `same_classes=False` of the '
        'teacher allows the difference for losses that read no classes.',
    )


def class_at(names: Sequence[str], index: int) -> str:
    """The name of a class in quotes, or that there is none."""
    return repr(names[index]) if index < len(names) else 'missing'


def check_order(data: Sequence[str] | None, checkpoint: Sequence[str] | None, source: str) -> None:
    """Check that a checkpoint was trained with the classes of a data set, in their order.

    Args:
        data: classes of the data set; None where unknown.
        checkpoint: classes in the checkpoint; None where it does not say.
        source: its path, for the message.

    Raises:
        SetupError: they differ.
    """
    if data is None or checkpoint is None or tuple(data) == tuple(checkpoint):
        return
    ours, theirs = tuple(data), tuple(checkpoint)
    count = max(len(ours), len(theirs))
    index = next(i for i in range(count) if ours[i : i + 1] != theirs[i : i + 1])
    shuffled = 'the same classes in another order' if sorted(ours) == sorted(theirs) else 'others'
    raise SetupError(
        f'{source} was trained with classes that are not those of the data set, but {shuffled}: '
        f'class {index} is {class_at(theirs, index)} there and {class_at(ours, index)} in the '
        "data. Metrics would mix classes up. Give the data set the checkpoint's "
        '`metainfo=dict(classes=...)`, or test it with the config that it was trained with.'
    )


def check_classes(
    ours: Sequence[str] | None, theirs: Sequence[str] | None, checkpoint: str | None
) -> None:
    """Check that teacher and training set name the same classes in the same order.

    Args:
        ours: classes of the training set; None where unknown.
        theirs: classes in the teacher's checkpoint; None where it does not say.
        checkpoint: its path, for the message.

    Raises:
        SetupError: they differ.
    """
    if ours is None or theirs is None:
        return
    if found := other_classes(tuple(ours), tuple(theirs)):
        raise SetupError(
            f'{checkpoint} was trained with {len(theirs)} classes, which are not the '
            f'{len(ours)} of the training set. {found}'
        )
