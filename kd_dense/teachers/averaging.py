"""Means of what several models predict, brought back to the logits that stand for them.

Of models that agree to the bit the mean is what each of them says, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def average(values: Sequence[Tensor]) -> Tensor:
    """The mean of M tensors of one shape, in float32 (float64 for float64 input)."""
    first, *others = _exact(values)
    if not others:
        return first
    return first + torch.stack([each - first for each in others]).sum(dim=0) / len(values)


def average_sigmoid(logits: Sequence[Tensor]) -> Tensor:
    """The logit of the mean of sigmoid(z_m), for M tensors of one shape."""
    first, *_ = exact = _exact(logits)
    # log(mean p) - log(mean (1 - p)), each beside the first model's
    yes = _log_mean_ratio([F.logsigmoid(each) for each in exact])
    no = _log_mean_ratio([F.logsigmoid(-each) for each in exact])
    return first + (yes - no)


def average_softmax(logits: Sequence[Tensor], dim: int) -> Tensor:
    """Logits whose softmax is the mean of softmax(z_m), for M tensors of one shape.

    Args:
        logits: M tensors.
        dim: the classes, or bins.
    """
    first, *_ = exact = _exact(logits)
    return first + _log_mean_ratio([each.log_softmax(dim) for each in exact])


def _log_mean_ratio(logarithms: Sequence[Tensor]) -> Tensor:
    """log(mean p_m / p_0) of M tensors log p_m; exactly 0 where all are equal."""
    beside = torch.stack([each - logarithms[0] for each in logarithms])
    return beside.logsumexp(dim=0) - torch.zeros_like(beside).logsumexp(dim=0)


def _exact(values: Sequence[Tensor]) -> list[Tensor]:
    return [each.to(torch.promote_types(each.dtype, torch.float32)) for each in values]
