"""Soft targets: the teacher's class distribution at a temperature (Hinton et al. 2015)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SetupError
from ..regions import REGIONS, check_region, region_demands, region_reads
from ..registry import MODELS
from ..views import DenseView
from .base import DistillationLoss, global_divisor


def softmax_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(P(t/T) || P(s/T)) * T^2 over the last dimension, P = softmax.

    T^2 keeps the size of the gradient when T changes [1, section 2]. For zero-mean logits and
    large T the gradient tends to (s - t) / K, that of logit matching [1, section 2.1].

    Sources: [1] Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network",
    arXiv 1503.02531.

    Args:
        student: logits s, (..., K).
        teacher: logits t, (..., K); detached.
        temperature: T, above 0.

    Returns:
        (...), in float32 (float64 for float64 input), summed over the K classes or bins.

    Raises:
        ValueError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    log_p_student = F.log_softmax(student / temperature, dim=-1)
    log_p_teacher = F.log_softmax(teacher / temperature, dim=-1)
    kl = F.kl_div(log_p_student, log_p_teacher, reduction='none', log_target=True)
    return kl.sum(dim=-1) * temperature**2


def sigmoid_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(B(t/T) || B(s/T)) * T^2 of each logit, B = Bernoulli with p = sigmoid.

    The counterpart of :func:`softmax_kl` for heads whose classes are independent: with two classes
    and logits (x, 0) both are equal.

    Args:
        student: logits s, any shape.
        teacher: logits t, same shape; detached.
        temperature: T, above 0.

    Returns:
        same shape, in float32 (float64 for float64 input).

    Raises:
        ValueError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    student, teacher = student / temperature, teacher / temperature
    p_teacher = teacher.sigmoid()
    # log(p_t / p_s) = logsigmoid(t) - logsigmoid(s), and the same of the complements
    log_ratio = F.logsigmoid(teacher) - F.logsigmoid(student)
    log_ratio_not = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    return (p_teacher * log_ratio + (1 - p_teacher) * log_ratio_not) * temperature**2


def prepare_logits(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of one shape in float32 (or float64), the teacher's detached.

    Raises:
        ValueError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise SetupError(
            f'Student and teacher logits must have one shape; got {tuple(student.shape)} from the '
            f'student and {tuple(teacher.shape)} from the teacher. Check classes and strides.'
        )
    teacher = teacher.detach()
    if student.dtype.itemsize < 4:
        student = student.float()
    return student, teacher.to(student.dtype)


@MODELS.register_module()
class SoftTargets(DistillationLoss):
    """Classification distillation on the predictions of a region.

    weight * sum of the KL over the region / number of predictions in it. Softmax heads compare one
    distribution over the classes (with the background), sigmoid heads one Bernoulli per class.

    Sources: [1] Hinton et al., arXiv 1503.02531; [2] Zheng et al., "Localization Distillation",
    arXiv 2102.12252, whose classification term is ``temperature=2, weight=10,
    activation='softmax', region='main', over_classes='mean'`` (softmax even on a sigmoid head).

    Differs from [2]'s code in the divisor: that divides on each level by the level's positives and
    adds the levels; here all levels share one count, over all ranks.
    ``variant='reference'`` computes as that code does.

    Args:
        temperature: T.
        weight: see :class:`DistillationLoss`.
        activation: ``'softmax'``, ``'sigmoid'`` or ``'auto'``, the head's own.
        region: one of :data:`~kd_dense.regions.REGIONS`.
        over_classes: ``'sum'`` or ``'mean'`` of the K classes' terms.
        variant: ``'paper'`` or ``'reference'``.

    Raises:
        ValueError: an unknown choice or a temperature that is not positive.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        weight: float = 1.0,
        activation: Literal['auto', 'softmax', 'sigmoid'] = 'auto',
        region: str = 'all',
        over_classes: Literal['sum', 'mean'] = 'sum',
        variant: Literal['paper', 'reference'] = 'paper',
    ) -> None:
        super().__init__(weight)
        check_choice('activation', activation, ('auto', 'softmax', 'sigmoid'))
        check_choice('over_classes', over_classes, ('sum', 'mean'))
        check_choice('variant', variant, ('paper', 'reference'))
        check_region(region)
        check_temperature(temperature)
        self.reads = ('cls_logits', *region_reads(region))
        self.temperature = temperature
        self.activation = activation
        self.region = region
        self.over_classes = over_classes
        self.variant = variant

    def demands(self, student: nn.Module) -> list[str]:
        """What the region asks of the student."""
        return region_demands(self.region, student)

    def forward(self, student: DenseView, teacher: DenseView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        mask = REGIONS[self.region](student, teacher)
        s, t = student.flat_cls_logits[mask], teacher.flat_cls_logits[mask]
        activation = student.activation if self.activation == 'auto' else self.activation
        if activation == 'softmax':
            kl = softmax_kl(s, t, self.temperature)
        else:
            kl = sigmoid_kl(s, t, self.temperature).sum(dim=-1)
        if self.over_classes == 'mean':
            kl = kl / s.shape[-1]
        if self.variant == 'reference':
            level = student.level_index.expand_as(mask)[mask]
            count = (
                mask.sum(0)
                .new_zeros(len(student.level_sizes))
                .index_add_(0, level, mask.new_ones(len(level), dtype=mask.sum().dtype))
            )
            return (kl / count[level]).sum()
        return kl.sum() / global_divisor(mask.sum())


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise SetupError(f'{name} is {value!r}; choose one of {", ".join(map(repr, choices))}.')


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless the temperature is positive."""
    if not temperature > 0:
        raise SetupError(f'temperature is {temperature}; it must be above 0.')
