"""Class logits beside the labels that the student's own cross entropy compares them with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ..hosts.heads import plain_cross_entropy
from ..views import SegmentationView, view_class
from .maps import logits_demands
from .parts import part_demands

DECODE = 'decode'  # a segmentor's decode head
MIXED = (DECODE, 'roi')  # parts whose own class loss is a cross entropy over a softmax


class Labelled(NamedTuple):
    """What the student's own class loss compares, or a part of it.

    Attributes:
        student, teacher: logits, (B, K), in float32.
        labels: of each row, 0 to K-1, (B,).
        weights: what each row counts in the own loss, (B,).
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor
    weights: Tensor


def labelled(part: str, student: Any, teacher: Any) -> Iterator[Labelled]:
    """The labelled logits of a batch: pixels of one image after the other, or all proposals.

    Args:
        part: one of :data:`MIXED`.
        student, teacher: views; the student's own loss has run.
    """
    if part == DECODE:
        yield from _pixels(student, teacher)
        return
    chosen = student.roi_sampled
    targets = student.roi_targets
    yield Labelled(
        student.roi_cls_logits[chosen],
        teacher.roi_cls_logits[chosen].detach(),
        targets.labels[chosen],
        targets.label_weights[chosen],
    )


def _pixels(student: SegmentationView, teacher: SegmentationView) -> Iterator[Labelled]:
    """Both maps of logits at the size of the labels, as the own loss brings them there."""
    size = student.labels.shape[-2], student.labels.shape[-1]
    aligned = getattr(student.head, 'align_corners', False)
    # image by image: what is interpolated is the largest map of the whole training
    maps = zip(student.seg_logits, teacher.seg_logits.detach(), student.labels, strict=True)
    for ours, theirs, labels in maps:
        counted = labels != student.ignore_index
        s, t = (
            F.interpolate(m[None].float(), size, mode='bilinear', align_corners=aligned)
            .squeeze(0)
            .movedim(0, -1)[counted]
            for m in (ours, theirs)
        )
        yield Labelled(s, t, labels[counted], s.new_ones(len(s)))


def own_share(part: str, student: Any) -> Tensor:
    """What the student's own class loss multiplies the sum over all rows by, on this rank."""
    if part == DECODE:
        own, labels = student.head.loss_decode, student.labels
        count = (labels != student.ignore_index).sum()
        count = count if own.avg_non_ignore else count.new_tensor(labels.numel())
    else:
        own, count = student.box_head.loss_cls, student.roi_sampled.sum()
    return own.loss_weight * student.own_weight / count.clamp(min=1)


def label_demands(part: str, student: nn.Module) -> list[str]:
    """What a part with labels asks of the student and does not find, as sentences."""
    return logits_demands(part, student) if part == DECODE else part_demands(part, student)


def mixture_demands(part: str, student: nn.Module) -> list[str]:
    """What replacing the own class loss asks of the student and does not find, as sentences."""
    if found := label_demands(part, student):
        return found
    view: Any = view_class(student)
    head = view.head_of(student) if part == DECODE else view.box_head_of(student)
    if plain_cross_entropy(head):
        return []
    return [
        f'it replaces the own class loss of the {type(head).__name__}, which has to be one cross '
        'entropy over a softmax, averaged, without weights of classes and without a sampler'
    ]
