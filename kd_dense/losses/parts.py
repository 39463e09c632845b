"""The parts of a detector that class and box losses can be applied to, under common names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import SetupError
from ..views import OneStageView, TwoStageView, View, host_info, view_class
from ..views.info import LABELS


class Part(NamedTuple):
    """One head of a detector.

    Attributes:
        two_stage: whether it is found in two-stage detectors, or in one-stage ones.
        cls_reads, box_reads: what a loss on its classes or boxes reads.
        own_cls_loss: name of its own class loss.
        cls_logits: of a view, background last where there is one, (..., K) or (..., K + 1).
        sampled: which predictions the student's own class loss counted; bool, (...).
        divisor: what that loss is divided by on this rank, a scalar.
    """

    two_stage: bool
    cls_reads: tuple[str, ...]
    box_reads: tuple[str, ...]
    own_cls_loss: str
    cls_logits: Callable[[Any], Tensor]
    sampled: Callable[[Any], Tensor]
    divisor: Callable[[Any], Tensor]


DENSE_READS = ('cls_logits', 'assignment'), ('box_logits', 'assignment')
PARTS = {
    'rpn': Part(
        True,
        *DENSE_READS,
        'loss_rpn_cls',
        lambda v: v.flat_cls_logits,
        lambda v: v.sampled,
        lambda v: v.own_divisor,
    ),
    'roi': Part(
        True,
        ('roi_cls_logits',),
        ('roi_deltas',),
        'loss_cls',
        lambda v: v.roi_cls_logits,
        lambda v: v.roi_sampled,
        lambda v: v.roi_sampled.sum(),
    ),
    'dense': Part(
        False,
        *DENSE_READS,
        'loss_cls',
        lambda v: v.flat_cls_logits,
        lambda v: v.sampled,
        lambda v: v.own_divisor,
    ),
}


def check_part(part: str) -> None:
    """Raise SetupError unless there is such a part."""
    if part not in PARTS:
        raise SetupError(f'part is {part!r}; choose one of {", ".join(map(repr, PARTS))}.')


def head_of_part(part: str, model: nn.Module) -> Any:
    """The head that a part of a model is."""
    view: Any = view_class(model)
    return view.box_head_of(model) if part == 'roi' else view.head_of(model)


def part_demands(part: str, student: nn.Module) -> list[str]:
    """What a part asks of the student and does not find, as sentences."""
    wanted: type[View] = TwoStageView if PARTS[part].two_stage else OneStageView
    if not issubclass(view_class(student), wanted):
        kind, others = (
            ('two-stage', "'dense'") if PARTS[part].two_stage else ('one-stage', "'rpn' or 'roi'")
        )
        return [
            f'part {part!r} is one of {kind} detectors, found a {type(student).__name__}; '
            f'choose {others}'
        ]
    info, head = host_info(student), head_of_part(part, student)
    if part == 'roi':
        if info.roi_scores == 'softmax':
            return []
        return [
            f"part 'roi' needs class scores by softmax, found {type(head.loss_cls).__name__} "
            f'in {type(head).__name__}'
        ]
    if LABELS not in info.abilities:
        return [
            f"part {part!r} needs a head that assigns labels as mmdet's RPNHead, RetinaHead, "
            f'ATSSHead, GFLHead or FCOSHead do, found {type(head).__name__}'
        ]
    return []
