"""Merit-based distillation: the teacher counts where it is right (Morikawa 2023)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from .base import DistillationLoss, global_divisor
from .checks import check_choice, check_temperature
from .functional import prepare_logits, sigmoid_kl, softmax_kl
from .labelled import DECODE, MIXED, Labelled, label_demands, labelled, mixture_demands, own_share
from .parts import PARTS
from .regions import REGIONS, check_region, region_demands, region_reads

KINDS = ('delta', 'hard', 'soft')


def merit(right: Tensor, trusted: Tensor, kind: str, alpha: float, delta: float) -> Tensor:
    """The share a of the teacher at each element, detached.

    ``'delta'``: alpha + delta where the teacher is right, alpha - delta where it is wrong;
    ``'hard'``: alpha where it is right, else 0; ``'soft'``: its probability of the truth.

    Args:
        right: whether the teacher's decision is the label's; bool, any shape.
        trusted: the teacher's probability of the truth, same shape.
        kind: one of :data:`KINDS`.
        alpha, delta: see above.

    Returns:
        same shape, 0 to 1.
    """
    if kind == 'soft':
        return trusted.detach()
    wrong = alpha - delta if kind == 'delta' else 0.0
    best = alpha + delta if kind == 'delta' else alpha
    return torch.where(right, best, wrong).to(trusted)


def merit_mixture(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    kind: str = 'soft',
    temperature: float = 1.0,
    alpha: float = 0.5,
    delta: float = 0.1,
    variant: str = 'paper',
) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of (1 - a) CE + a T^2 KL(P(t/T) || P(s/T)), P = softmax, for labelled rows.

    Sources: [1] Morikawa, "CNN Model Compression by Merit-based Distillation", 2023; [2] its code,
    github.com/motakuss/Knowledge-Distillation-Technique, which divides both logits by T before all
    else: its cross entropy and a are at temperature T, its KL at T^2. ``variant='reference'`` does
    so.

    Args:
        student: logits, (B, K).
        teacher: logits, (B, K); detached.
        labels: 0 to K-1, (B,).
        kind, alpha, delta: see :func:`merit`.
        temperature: T, above 0.
        variant: ``'paper'`` or ``'reference'``.

    Returns:
        a, CE and T^2 KL, each (B,), in float32 (float64 for float64 input).

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    if variant == 'reference':
        student, teacher = student / temperature, teacher / temperature
    right = teacher.argmax(dim=-1) == labels
    trusted = teacher.softmax(dim=-1).gather(-1, labels[:, None])[:, 0]
    share = merit(right, trusted, kind, alpha, delta)
    hard = F.cross_entropy(student, labels, reduction='none')
    return share, hard, softmax_kl(student, teacher, temperature)


def binary_merit(
    student: Tensor,
    teacher: Tensor,
    truth: Tensor,
    kind: str = 'soft',
    temperature: float = 1.0,
    alpha: float = 0.5,
    delta: float = 0.1,
    variant: str = 'paper',
) -> Tensor:
    """a T^2 KL(B(t/T) || B(s/T)) of each logit, B = Bernoulli with p = sigmoid.

    The counterpart of :func:`merit_mixture` for heads whose classes are independent: each is a
    decision of its own, right where (sigmoid(t) > 1/2) is the truth.

    Args:
        student: logits, any shape.
        teacher: logits, same shape; detached.
        truth: whether the object is of the class; bool, same shape.
        kind, temperature, alpha, delta, variant: see :func:`merit_mixture`.

    Returns:
        same shape.

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    if variant == 'reference':
        student, teacher = student / temperature, teacher / temperature
    p = teacher.sigmoid()
    share = merit((teacher > 0) == truth, torch.where(truth, p, 1 - p), kind, alpha, delta)
    return share * sigmoid_kl(student, teacher, temperature)


@MODELS.register_module()
class MeritBased(DistillationLoss):
    r"""The teacher's class scores count by its merit: as much as it is right about the label.

    :math:`L = \frac{1}{n} \sum_i (1 - a_i) CE_i + a_i T^2 KL(P(t_i/T) \| P(s_i/T))` with a_i, the
    teacher's merit, of one of three kinds (:func:`merit`).

    ``mix='exact'``, on softmax heads: the student's own class loss runs and is logged untouched,
    and this loss is the difference to L, with the very elements, weights and divisor of the own
    one, so that their sum is L (times the own loss's weight). It may be negative. ``mix='add'``
    leaves the own loss whole and adds :math:`a_i T^2 KL_i`, over the elements of all ranks: for
    class losses that are no plain cross entropy, and for sigmoid heads, where each class of each
    position is a decision of its own, summed over the classes and divided by the predictions of
    the region. Outside of the positives nearly every decision is easy and every teacher right.

    Sources: [1] and [2] of :func:`merit_mixture`, which says what ``variant='reference'`` does as
    [2] does. Both agree at T = 1, which [2] trains with.

    Args:
        kind: ``'delta'``, ``'hard'`` or ``'soft'``.
        part: ``'decode'`` of a segmentor, ``'roi'`` or ``'rpn'`` of a two-stage detector,
            ``'dense'`` of a one-stage one.
        temperature: T.
        alpha: the teacher's share where it is right, of kinds ``'delta'`` and ``'hard'``.
        delta: what that grows and shrinks by, of kind ``'delta'``.
        mix: ``'exact'`` or ``'add'``.
        region: of dense heads, one of :data:`~kd_dense.losses.regions.REGIONS`.
        variant: ``'paper'`` or ``'reference'``.
        weight: see :class:`DistillationLoss`; below 1 the sum is the mixture with a_i times it.

    Raises:
        SetupError: an unknown choice, a temperature that is not positive, or a share outside of
            0 to 1.
    """

    def __init__(
        self,
        kind: Literal['delta', 'hard', 'soft'] = 'soft',
        part: Literal['decode', 'roi', 'rpn', 'dense'] = 'decode',
        temperature: float = 1.0,
        alpha: float = 0.5,
        delta: float = 0.1,
        mix: Literal['exact', 'add'] = 'exact',
        region: str = 'main',
        variant: Literal['paper', 'reference'] = 'paper',
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_choice('kind', kind, KINDS)
        check_choice('part', part, (DECODE, *PARTS))
        check_choice('mix', mix, ('exact', 'add'))
        check_choice('variant', variant, ('paper', 'reference'))
        check_region(region)
        check_temperature(temperature)
        spread = abs(delta) if kind == 'delta' else 0.0
        if not (spread <= alpha <= 1 - spread):
            raise SetupError(
                f'alpha is {alpha} and delta {delta}: the shares of the teacher, alpha - delta to '
                'alpha + delta, have to lie in 0 to 1.'
            )
        self.reads = ('seg_logits',) if part == DECODE else PARTS[part].cls_reads
        if part not in MIXED:
            self.reads = tuple(dict.fromkeys([*self.reads, *region_reads(region)]))
        self.part = part
        self.mix = mix
        self.region = region
        self.options: dict[str, Any] = dict(
            kind=kind, temperature=temperature, alpha=alpha, delta=delta, variant=variant
        )

    def demands(self, student: nn.Module) -> list[str]:
        """A head of the part with plain scores; for an exact mixture a plain cross entropy."""
        if self.part in MIXED:
            found = (mixture_demands if self.mix == 'exact' else label_demands)(self.part, student)
            advice = '' if label_demands(self.part, student) else "; set `mix='add'`"
            return [f'{each}{advice}' for each in found]
        found = label_demands(self.part, student) or region_demands(self.region, student)
        if not found and self.mix == 'exact':
            found.append(
                f"mix 'exact' replaces a cross entropy over a softmax, which part {self.part!r} "
                "does not train by; set `mix='add'`"
            )
        return found

    def forward(self, student: Any, teacher: Any) -> Tensor:
        """The raw loss of one batch, a scalar."""
        if self.part not in MIXED:
            return self._dense(student, teacher)
        rows = labelled(self.part, student, teacher)
        if self.mix == 'exact':
            return torch.stack([self._difference(r) for r in rows]).sum() * own_share(
                self.part, student
            )
        sums = [self._added(each) for each in rows]
        total, count = (torch.stack(each).sum() for each in zip(*sums, strict=True))
        return total / global_divisor(count)

    def _difference(self, rows: Labelled) -> Tensor:
        """The mixture less the own cross entropy, summed."""
        share, hard, soft = merit_mixture(*rows[:3], **self.options)
        own = F.cross_entropy(rows.student, rows.labels, reduction='none')
        # in this order it is exactly nothing where the teacher has no merit
        return (rows.weights * (share * (soft - hard) + (hard - own))).sum()

    def _added(self, rows: Labelled) -> tuple[Tensor, Tensor]:
        share, _, soft = merit_mixture(*rows[:3], **self.options)
        return (rows.weights * share * soft).sum(), rows.weights.sum()

    def _dense(self, student: Any, teacher: Any) -> Tensor:
        part = PARTS[self.part]
        mask = REGIONS[self.region](student, teacher) & part.sampled(student)
        s, t = part.cls_logits(student)[mask], part.cls_logits(teacher)[mask]
        labels, classes = student.assignment.labels[mask], student.num_classes
        if s.shape[-1] > classes:  # a softmax with the background last
            share, _, soft = merit_mixture(s, t, labels, **self.options)
            return (share * soft).sum() / global_divisor(mask.sum())
        truth = F.one_hot(labels, classes + 1)[:, :classes].bool()
        return binary_merit(s, t, truth, **self.options).sum() / global_divisor(mask.sum())
