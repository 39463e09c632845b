"""Teacher-bounded regression (Chen et al., NIPS 2017), on dense heads and second stages."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import DenseView, TwoStageView, host_info
from ..views.info import DELTAS, ROI_DELTAS
from .base import DistillationLoss, global_divisor
from .parts import PARTS, check_part, head_of_part, part_demands


def bounded_squared_error(
    student: Tensor, teacher: Tensor, target: Tensor, margin: float = 0.0
) -> Tensor:
    """||R_s - y||^2 of each box where it, plus m, exceeds the teacher's ||R_t - y||^2, else 0.

    The teacher does not pull; it only tells when the student has come close enough.

    Args:
        student: encoded boxes R_s, (B, 4).
        teacher: R_t in the same encoding, (B, 4); detached.
        target: y in the same encoding, (B, 4); detached.
        margin: m, by how much the student has to be better than the teacher to be left alone.

    Returns:
        (B,), in float32 (float64 for float64 input).

    Raises:
        SetupError: the shapes differ.
    """
    if not student.shape == teacher.shape == target.shape:
        raise SetupError(
            f'Boxes must have one shape; got {tuple(student.shape)} from the student, '
            f'{tuple(teacher.shape)} from the teacher and {tuple(target.shape)} as targets.'
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher, target = student.to(dtype), teacher.detach().to(dtype), target.detach()
    ours = (student - target.to(dtype)).square().sum(dim=-1)
    theirs = (teacher - target.to(dtype)).square().sum(dim=-1)
    return torch.where(ours + margin > theirs, ours, 0.0)


def deltas_of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Each box's deltas for its own class.

    Args:
        deltas: (B, K * 4), or (B, 4) of a class-agnostic head.
        labels: the boxes' classes, 0 to K-1, (B,).

    Returns:
        (B, 4).
    """
    per_class = deltas.reshape(len(deltas), deltas.shape[1] // 4, 4)
    if per_class.shape[1] == 1:
        return per_class[:, 0]
    return per_class[torch.arange(len(deltas), device=deltas.device), labels]


class Encoding(NamedTuple):
    """Against what boxes are encoded, and how.

    Attributes:
        references: anchors or proposals, xyxy in pixels, (B, 4).
        coder: mmdet's, with means and stds.
    """

    references: Tensor
    coder: Any


def encode_again(deltas: Tensor, old: Encoding, new: Encoding) -> Tensor:
    """Bring deltas to another encoding, by way of the boxes; untouched if it is the same.

    Args:
        deltas: (B, 4).
        old, new: the encodings.

    Returns:
        (B, 4).
    """
    statistics = [(tuple(e.coder.means), tuple(e.coder.stds)) for e in (old, new)]
    same = statistics[0] == statistics[1] and torch.equal(old.references, new.references)
    if same or not len(deltas):
        return deltas
    boxes = get_box_tensor(old.coder.decode(old.references, deltas))
    return new.coder.encode(new.references, boxes)


@MODELS.register_module()
class BoundedRegression(DistillationLoss):
    r"""Teacher-bounded regression of one head, on the positives of the student's own assignment.

    :math:`\nu L_b`, which joins the head's own box loss: :math:`L_b = \|R_s - y\|^2` if
    :math:`\|R_s - y\|^2 + m > \|R_t - y\|^2`, else 0, decided box by box, in the deltas as the
    student encodes them [1, section 3.3]. A class-specific head is compared in the deltas of the
    box's own class. Where the teacher encodes with other means and stds, or against other anchors,
    its deltas are decoded and encoded again.

    Divided as the head divides its own box loss: in two-stage detectors by the number of sampled
    boxes, in one-stage ones, which sample none, by the number of positives.

    Sources: [1] Chen, Choi, Yu, Han, Chandraker, "Learning Efficient Object Detection Models with
    Knowledge Distillation", NIPS 2017; no code was published. m = 0 is our choice, the paper
    names none.

    Args:
        part: ``'rpn'`` or ``'roi'`` of a two-stage detector, ``'dense'`` of a one-stage one whose
            head predicts deltas from anchors (RetinaNet, ATSS).
        margin: m, in squared deltas.
        weight: nu; see :class:`DistillationLoss`.

    Raises:
        SetupError: an unknown part.
    """

    def __init__(
        self,
        part: Literal['rpn', 'roi', 'dense'],
        margin: float = 0.0,
        weight: float = 0.5,
    ) -> None:
        super().__init__(weight)
        check_part(part)
        self.reads = PARTS[part].box_reads
        self.part = part
        self.margin = margin

    def demands(self, student: nn.Module) -> list[str]:
        """A head of the part that predicts deltas."""
        found = part_demands(self.part, student)
        able = ROI_DELTAS if self.part == 'roi' else DELTAS
        if not found and able not in host_info(student).abilities:
            found.append(
                'teacher-bounded regression needs boxes encoded as deltas from anchors or '
                'proposals (DeltaXYWHBBoxCoder), found '
                f'{type(head_of_part(self.part, student)).__name__}'
            )
        return found

    def forward(self, student: Any, teacher: Any) -> Tensor:
        """The raw loss of one batch, a scalar."""
        compare = _roi_boxes if self.part == 'roi' else _dense_boxes
        s, t, target = compare(student, teacher)
        errors = bounded_squared_error(s, t, target, self.margin)
        part = PARTS[self.part]
        count = part.sampled(student).sum() if part.two_stage else errors.new_tensor(len(errors))
        return errors.sum() / global_divisor(count)


def _roi_boxes(student: TwoStageView, teacher: TwoStageView) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and target of the positive proposals, in the student's encoding."""
    chosen, ours, theirs = student.roi_positives, student.box_head, teacher.box_head
    labels, _, targets = (values[chosen] for values in student.roi_targets)
    s, t = (deltas_of_class(view.roi_deltas[chosen], labels) for view in (student, teacher))
    proposals = student.proposals[chosen, 1:].float()
    encoding = Encoding(proposals, ours.bbox_coder)
    t = encode_again(t, Encoding(proposals, theirs.bbox_coder), encoding)
    return s, t, _encoded(targets, encoding) if ours.reg_decoded_bbox else targets


def _dense_boxes(student: DenseView, teacher: DenseView) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and target of the positive anchors, in the student's encoding."""
    chosen = student.positives & student.valid
    s, t = (view.flat_box_logits[chosen] for view in (student, teacher))
    ours, theirs = (
        Encoding(view.anchors.expand(len(chosen), -1, -1)[chosen], view.head.bbox_coder)
        for view in (student, teacher)
    )
    targets = student.assignment.box_targets[chosen]
    if student.box_targets_are_boxes:
        targets = _encoded(targets, ours)
    return s, encode_again(t, theirs, ours), targets


def _encoded(boxes: Tensor, encoding: Encoding) -> Tensor:
    """Encode boxes, xyxy in pixels, (B, 4)."""
    return encoding.coder.encode(encoding.references, boxes) if len(boxes) else boxes
