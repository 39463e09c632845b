"""What stands in for the teacher's distribution, to tell what of it teaches (Furlanello 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SetupError
from ..hosts import isolated_rng
from .base import global_divisor
from .checks import check_choice
from .functional import prepare_logits

TARGETS = ('teacher', 'permuted', 'confidence')
TINY = 1e-6  # the weights of a batch add up to this at least


def check_targets(targets: str, temperature: float, variant: str, standardize: bool) -> None:
    """Raise SetupError unless there are such targets, and they can be had in this way."""
    check_choice('targets', targets, TARGETS)
    if targets == 'confidence' and (temperature != 1 or variant != 'paper' or standardize):
        raise SetupError(
            "targets 'confidence' are labels, weighted by the teacher: they have no temperature, "
            'no reference and nothing to standardize; found '
            f'temperature={temperature}, variant={variant!r}, standardize={standardize}.'
        )


def permuted_logits(teacher: Tensor) -> Tensor:
    """The teacher's logits with all but each row's largest in random order: DKPP.

    What is left is how sure the teacher is, and of which class; which others are alike is gone.
    The student's random numbers stay as they are.

    Sources: [1] Furlanello et al., "Born-Again Neural Networks", arXiv 1805.04770.

    Args:
        teacher: logits, (..., K).
    """
    best = F.one_hot(teacher.argmax(dim=-1), teacher.shape[-1]).bool()
    with isolated_rng():
        order = torch.rand(teacher.shape, device=teacher.device)
    # the largest goes last in both lists, and so back to where it was
    sources = order.masked_fill(best, 2.0).argsort(dim=-1)
    places = best.int().argsort(dim=-1, stable=True)
    return torch.empty_like(teacher).scatter(-1, places, teacher.gather(-1, sources))


def confidence_weighted(
    student: Tensor, teacher: Tensor, labels: Tensor, softmax: bool = True
) -> Tensor:
    """Cross entropy with the labels, rows weighted by the teacher's largest score: CWTM.

    sum of w_i CE_i / sum of w_i, the weights' sum global over ranks. What is left of the teacher is
    how sure it is.

    Sources: [1] of :func:`permuted_logits`.

    Args:
        student: logits, (B, K).
        teacher: logits, (B, K); detached.
        labels: 0 to K-1, (B,).
        softmax: over the classes, or a sigmoid of each, whose terms are added.

    Returns:
        a scalar.

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    if softmax:
        weights = teacher.softmax(dim=-1).amax(dim=-1)
        errors = F.cross_entropy(student, labels, reduction='none')
    else:
        weights = teacher.sigmoid().amax(dim=-1)
        truth = F.one_hot(labels, student.shape[-1]).to(student)
        errors = F.binary_cross_entropy_with_logits(student, truth, reduction='none').sum(dim=-1)
    return (weights * errors).sum() / global_divisor(weights.sum(), least=TINY)
