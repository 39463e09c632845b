"""Relation distillation by Pearson's correlation: DIST (Huang et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import DenseView, SegmentationView, view_class
from .base import DistillationLoss, global_divisor
from .checks import check_choice, check_temperature
from .functional import prepare_logits
from .maps import LOGITS, logits_demands, resized, size_of
from .parts import PARTS, part_demands

TINY = 1e-6  # added to each squared norm: rows of equal scores have no direction to follow
SOMETHING = 0.05  # the least score of a position of a sigmoid head that counts


def correlation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along one dimension.

    Args:
        student: scores, any shape.
        teacher: same shape; detached.
        dim: along which.

    Returns:
        the shape without ``dim``, -1 to 1; 0 for what is constant.
    """
    student, teacher = (x - x.mean(dim, keepdim=True) for x in (student, teacher.detach()))
    norms = [(x.square().sum(dim) + TINY).sqrt() for x in (student, teacher)]
    return (student * teacher).sum(dim) / (norms[0] * norms[1])


@MODELS.register_module()
class RelationDistillation(DistillationLoss):
    r"""The student ranks the classes of each sample, and the samples of each class, as the teacher.

    weight * (:math:`\beta` * mean over the rows of 1 - :math:`\rho` + :math:`\gamma` * mean over
    the columns of 1 - :math:`\rho`), with :math:`\rho` Pearson's correlation of the class scores of
    both models; rows are samples (pixels, proposals, positions), columns are classes. Only what is
    added to or multiplied with the scores of a row or column goes unnoticed, so a much stronger
    teacher can be followed [1].

    Rows are those that are neither ignored nor padding, of all ranks; of two-stage heads the
    sampled proposals; of one-stage heads with sigmoid scores positions where either model's best
    score is above 0.05, since the background's equal scores have no order (our choice). The term of
    the columns is of each rank's own batch, so it depends on the batch size.

    Sources: [1] Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
    arXiv 2205.10536; beta = gamma = 1, T = 1 and weight 1 for dense prediction, and 0.4 on
    auxiliary heads, by its code.

    Differs from [1]'s code in leaving rows out at all, in a row of a one-stage head being one
    prediction and not the classes of all anchors of a position, and in the epsilon, here on each
    squared norm.

    Args:
        part: ``'decode'`` or ``'auxiliary'`` of segmentors, ``'roi'`` of two-stage detectors,
            ``'dense'`` of one-stage ones.
        beta: of the rows, the relation between classes.
        gamma: of the columns, the relation within a class.
        temperature: T, which the logits are divided by.
        weight: see :class:`DistillationLoss`.

    Raises:
        SetupError: an unknown part, a temperature that is not positive or a negative share.
    """

    def __init__(
        self,
        part: Literal['decode', 'auxiliary', 'roi', 'dense'] = 'decode',
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_choice('part', part, (*LOGITS, 'roi', 'dense'))
        check_temperature(temperature)
        if min(beta, gamma) < 0:
            raise SetupError(f'beta is {beta} and gamma {gamma}; neither may be negative.')
        self.reads = (LOGITS[part],) if part in LOGITS else PARTS[part].cls_reads
        self.part = part
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def demands(self, student: nn.Module) -> list[str]:
        """The part, and more than one score of each row."""
        view = view_class(student)
        if self.part not in LOGITS:
            return part_demands(self.part, student)
        if not issubclass(view, SegmentationView):
            choices = "'dense' or 'roi'" if issubclass(view, DenseView) else 'another loss'
            return [f'part {self.part!r} is one of segmentors, found {view.family}; {choices}']
        return logits_demands(self.part, student)

    def forward(self, student: Any, teacher: Any) -> Tensor:
        """The raw loss of one batch, a scalar."""
        return torch.stack([self._compare(*rows) for rows in self._rows(student, teacher)]).sum()

    def _rows(self, student: Any, teacher: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores of both sides, (B, K), once for each head."""
        if self.part in LOGITS:
            ours, theirs = (getattr(view, LOGITS[self.part]) for view in (student, teacher))
            for pair in zip(_listed(ours), _listed(theirs), strict=False):
                size = size_of(pair[0])
                valid = student.valid_at(size)
                s, t = pair[0].float(), resized(pair[1].detach().float(), size)
                yield self._scores(s.movedim(1, -1)[valid], t.movedim(1, -1)[valid], 'softmax')
            return
        part = PARTS[self.part]
        chosen = part.sampled(student)
        s, t = part.cls_logits(student)[chosen], part.cls_logits(teacher)[chosen]
        activation = 'softmax' if part.two_stage else student.activation
        s, t = self._scores(s, t, activation)
        if activation == 'sigmoid':
            something = torch.maximum(s.detach(), t).amax(dim=-1) > SOMETHING
            s, t = s[something], t[something]
        yield s, t

    def _scores(self, student: Tensor, teacher: Tensor, activation: str) -> tuple[Tensor, Tensor]:
        student, teacher = (x / self.temperature for x in prepare_logits(student, teacher))
        if activation == 'sigmoid':
            return student.sigmoid(), teacher.sigmoid()
        return student.softmax(dim=-1), teacher.softmax(dim=-1)

    def _compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        count = global_divisor(student.new_tensor(len(student)))
        rows = (1 - correlation(student, teacher, 1)).sum() / count
        if not len(student):  # nothing that columns could be of
            return self.beta * rows
        return self.beta * rows + self.gamma * (1 - correlation(student, teacher, 0)).mean()


def _listed(maps: Tensor | list[Tensor]) -> list[Tensor]:
    return [maps] if isinstance(maps, Tensor) else list(maps)
