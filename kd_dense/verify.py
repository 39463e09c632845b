"""Checks of a pair before the first step: what was found, what was expected, the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from .errors import SetupError
from .losses.base import DistillationLoss
from .views import HostInfo, view_class

# what of two hosts has to agree for a loss that reads this of them
AGREEMENT = {
    'features': ('family', 'strides'),
    'features_of_any_size': ('num_levels',),
    'any_features': (),
    'cls_logits': ('family', 'strides', 'num_classes', 'activation', 'num_anchors', 'anchors'),
    'box_logits': ('family', 'strides', 'num_anchors', 'anchors', 'boxes'),
    'assignment': ('family', 'strides', 'num_anchors'),
    # of proposals: the teacher pools them from its own features, whatever their strides
    'roi_cls_logits': ('family', 'num_classes', 'roi_scores'),
    'roi_deltas': ('family', 'num_classes', 'roi_boxes'),
    # of segmentors: maps of other sizes are brought to the student's
    'seg_logits': ('family', 'num_classes', 'activation'),
    'aux_logits': ('family', 'num_classes', 'activation'),
    'head_features': ('family',),
}
WORDS = {
    'family': 'host family',
    'strides': 'strides of the feature levels',
    'num_levels': 'number of feature levels',
    'num_classes': 'number of classes',
    'activation': 'kind of class scores',
    'num_anchors': 'predictions per position',
    'anchors': 'shapes of the anchors',
    'boxes': 'encoding of boxes',
    'roi_scores': "kind of the proposals' class scores",
    'roi_boxes': "encoding of the proposals' boxes",
}


class Difference(NamedTuple):
    """In what a teacher and a student differ, and the losses that mind.

    Attributes:
        what: name of an attribute of :class:`~kd_dense.views.HostInfo`.
        ours, theirs: its values, of the student and of the teacher.
        losses: names of the losses that mind.
    """

    what: str
    ours: object
    theirs: object
    losses: list[str]

    def __str__(self) -> str:
        minding = ', '.join(f'losses.{name}' for name in self.losses)
        return (
            f'{WORDS[self.what]}: the teacher has {self.theirs}, the student {self.ours} '
            f'(minded by {minding})'
        )


def differences(
    ours: HostInfo,
    theirs: HostInfo,
    losses: Mapping[str, DistillationLoss] | nn.ModuleDict,
    same_classes: bool = True,
) -> list[Difference]:
    """In what a student and a teacher differ that any loss minds.

    Args:
        ours, theirs: descriptions of the student and of the teacher.
        losses, same_classes: see :func:`check_pair`.
    """
    found = []
    if same_classes and ours.num_classes != theirs.num_classes:
        found.append(_difference('num_classes', ours, theirs, list(losses)))
    for what in WORDS:
        minding = [
            name
            for name, loss in losses.items()
            if any(what in AGREEMENT[read] for read in loss.reads)
        ]
        already = (what == 'num_classes' and bool(found)) or (
            what == 'anchors' and ours.num_anchors != theirs.num_anchors
        )
        if minding and not already and getattr(ours, what) != getattr(theirs, what):
            found.append(_difference(what, ours, theirs, minding))
    return found


def unmet(student: nn.Module, name: str, loss: DistillationLoss) -> list[str]:
    """What a loss asks of the student and does not find, in sentences.

    Args:
        student: the built model.
        name: of the loss.
        loss: a distillation loss.
    """
    found = loss.demands(student) or _unknown(loss, student)
    return [f'losses.{name}: {each}' for each in found]


def check_pair(
    student: nn.Module,
    teacher: nn.Module,
    losses: Mapping[str, DistillationLoss] | nn.ModuleDict,
    same_classes: bool = True,
) -> None:
    """Check that two models agree in what the losses compare.

    Args:
        student, teacher: the built models.
        losses: distillation losses by name; each tells what it reads.
        same_classes: whether the number of classes must agree whatever the losses read.

    Raises:
        ValueError: they differ; the message names each difference and the losses that mind.
    """
    ours = view_class(student).describe(student)
    theirs = view_class(teacher).describe(teacher)
    findings = [str(found) for found in differences(ours, theirs, losses, same_classes)]
    for name, loss in losses.items():
        findings += unmet(student, name, loss)
    if findings:
        allowed = (
            ' Other classes are allowed by `teacher.same_classes=False` (`--other-classes`), for '
            'losses that read no classes.'
            if same_classes and ours.num_classes != theirs.num_classes
            else ''
        )
        raise SetupError(
            f'Teacher ({theirs.head}) and student ({ours.head}) do not fit:\n  - '
            + '\n  - '.join(findings)
            + '\nChoose a teacher that agrees with the student there, or leave out the losses '
            'named; losses on features ask the least of a pair: hints (FeatureImitation) and PKD '
            f'(PearsonDistillation).{allowed}'
        )


def _unknown(loss: DistillationLoss, student: nn.Module) -> list[str]:
    """What a loss reads that is not known of this kind of host, in a sentence."""
    view = view_class(student)
    unknown = [read for read in loss.reads if not hasattr(view, read)]
    if not unknown:
        return []
    return [
        f'{type(loss).__name__} reads {", ".join(unknown)}, which kd_dense does not know of a '
        f'{type(student).__name__} ({view.family}); losses on features work on it: hints '
        '(FeatureImitation) and PKD (PearsonDistillation)'
    ]


def _difference(what: str, ours: HostInfo, theirs: HostInfo, losses: list[str]) -> Difference:
    return Difference(what, getattr(ours, what), getattr(theirs, what), losses)


def check_classes(
    ours: Sequence[str] | None, theirs: Sequence[str] | None, checkpoint: str | None
) -> None:
    """Check that teacher and training set name the same classes in the same order.

    Args:
        ours: classes of the training set; None where unknown.
        theirs: classes in the teacher's checkpoint; None where it does not say.
        checkpoint: its path, for the message.

    Raises:
        ValueError: they differ.
    """
    if ours is None or theirs is None or tuple(ours) == tuple(theirs):
        return
    first = next(
        (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
        min(len(ours), len(theirs)),
    )
    raise SetupError(
        f'The teacher knows other classes than the training set. {checkpoint} was trained with '
        f'{len(theirs)} classes {_around(theirs, first)}, the training set has {len(ours)} classes '
        f'{_around(ours, first)}; the first difference is class {first}. Bring the classes of the '
        "dataset into the teacher's order (`metainfo=dict(classes=...)`; of COCO annotations the "
        'list `categories` too, by which mmdet numbers them) or use a teacher trained on them; '
        '`teacher.same_classes=False` allows the difference for losses that read no classes.'
    )


def _around(names: Sequence[str], index: int) -> str:
    start = max(0, index - 1)
    shown = ', '.join(map(repr, names[start : index + 3]))
    return f'({"..., " if start else ""}{shown}{", ..." if index + 3 < len(names) else ""})'
