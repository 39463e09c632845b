"""The parts of a detector that class and box losses can be applied to, under common names."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mmdet.models.dense_heads import AnchorHead, ATSSHead, FCOSHead, GFLHead
from torch import Tensor, nn

from ..errors import SetupError
from ..views import DenseView, OneStageView, TwoStageView, view_class


class Part(NamedTuple):
    """One head of a detector.

    Attributes:
        two_stage: whether it is found in two-stage detectors, or in one-stage ones.
        cls_reads, box_reads: what a loss on its classes or boxes reads.
        own_cls_loss: name of its own class loss.
        cls_logits: of a view, background last where there is one, (..., K) or (..., K + 1).
        sampled: which predictions the student's own class loss counted; bool, (...).
    """

    two_stage: bool
    cls_reads: tuple[str, ...]
    box_reads: tuple[str, ...]
    own_cls_loss: str
    cls_logits: Callable[[DenseView], Tensor]
    sampled: Callable[[DenseView], Tensor]


DENSE_READS = ('cls_logits', 'assignment'), ('box_logits', 'assignment')
PARTS = {
    'rpn': Part(
        True, *DENSE_READS, 'loss_rpn_cls', lambda v: v.flat_cls_logits, lambda v: v.sampled
    ),
    'roi': Part(
        True,
        ('roi_cls_logits',),
        ('roi_deltas',),
        'loss_cls',
        lambda v: v.roi_cls_logits,
        lambda v: v.roi_sampled,
    ),
    'dense': Part(
        False, *DENSE_READS, 'loss_cls', lambda v: v.flat_cls_logits, lambda v: v.sampled
    ),
}


def check_part(part: str) -> None:
    """Raise ValueError unless there is such a part."""
    if part not in PARTS:
        raise SetupError(f'part is {part!r}; choose one of {", ".join(map(repr, PARTS))}.')


def head_of_part(part: str, model: nn.Module) -> nn.Module:
    """The head that a part of a model is."""
    return model.roi_head.bbox_head if part == 'roi' else view_class(model).head_of(model)


def part_demands(part: str, student: nn.Module) -> list[str]:
    """What a part asks of the student and does not find, as sentences."""
    wanted = TwoStageView if PARTS[part].two_stage else OneStageView
    if not issubclass(view_class(student), wanted):
        kind, others = (
            ('two-stage', "'dense'") if PARTS[part].two_stage else ('one-stage', "'rpn' or 'roi'")
        )
        return [
            f'part {part!r} is one of {kind} detectors, found a {type(student).__name__}; '
            f'choose {others}'
        ]
    head = head_of_part(part, student)
    if part == 'roi':
        if view_class(student).describe(student).roi_scores == 'softmax':
            return []
        return [
            f"part 'roi' needs class scores by softmax, found {type(head.loss_cls).__name__} "
            f'in {type(head).__name__}'
        ]
    known = (m.get_targets for m in (GFLHead, ATSSHead, AnchorHead, FCOSHead))
    if type(head).get_targets not in known:
        return [
            f"part {part!r} needs a head that assigns labels as mmdet's RPNHead, RetinaHead, "
            f'ATSSHead, GFLHead or FCOSHead do, found {type(head).__name__}'
        ]
    return []
