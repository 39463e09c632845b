"""Functions of tensors that several losses share: divergences of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SetupError

# logits are all alike, but for rounding, where their deviation is below this share of their mean
ROUNDING = 1e-5
NO_SPREAD = 1e-14  # or their variance below this


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
        SetupError: the shapes differ.
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
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    student, teacher = student / temperature, teacher / temperature
    p_teacher = teacher.sigmoid()
    # log(p_t / p_s) = logsigmoid(t) - logsigmoid(s), and the same of the complements
    log_ratio = F.logsigmoid(teacher) - F.logsigmoid(student)
    log_ratio_not = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    return (p_teacher * log_ratio + (1 - p_teacher) * log_ratio_not) * temperature**2


def standardized(logits: Tensor, dim: int = -1) -> Tensor:
    """Logits with mean 0 and deviation 1 over the classes, to be compared by a softmax KL.

    Only how a model ranks and spaces the classes is left, whatever the size of its logits; a
    temperature then means the same for every model. Where all logits are alike they become 0.

    Sources: [1] Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024,
    arXiv 2403.01427; as in its code the deviation is that of a sample, divided by K - 1.

    Args:
        logits: any shape, three classes at least: of two only their order would be left.
        dim: along which the classes lie.

    Returns:
        same shape, in float32 (float64 for float64 input).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    mean = logits.mean(dim=dim, keepdim=True)
    centred = logits - mean
    variance = centred.square().sum(dim=dim, keepdim=True) / (logits.shape[dim] - 1)
    spread = variance > (ROUNDING * mean).square() + NO_SPREAD
    return torch.where(spread, centred * torch.where(spread, variance, 1.0).rsqrt(), 0.0)


def prepare_logits(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of one shape in float32 (or float64), the teacher's detached.

    Raises:
        SetupError: the shapes differ.
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
