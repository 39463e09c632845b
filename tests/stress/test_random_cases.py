"""Ten thousand seeded random cases of each loss function: finite in value and in gradient.

Shapes from empty to some hundred numbers, magnitudes from 1e-4 to 1e4, single and half precision,
transposed and channels-last layouts, masks from nothing to everything. `make stress` runs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmcv.cnn import ContextBlock
from torch import Tensor

from kd_dense.losses import (
    affinity,
    attention_maps,
    binary_distillation,
    bounded_squared_error,
    box_disagreement,
    channel_kl,
    correlation,
    decoupled_kl,
    edge_kl,
    masked_absolute_error,
    masked_squared_error,
    pixel_cross_entropy,
    pixel_kl,
    pool_nodes,
    sigmoid_kl,
    softmax_kl,
    standardized,
    standardized_squared_error,
    weighted_soft_binary_cross_entropy,
    weighted_soft_cross_entropy,
    with_context,
)

CASES = 10_000
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Case(NamedTuple):
    """Student, teacher, a mask, and numbers to draw more from."""

    student: Tensor
    teacher: Tensor
    mask: Tensor
    rng: np.random.Generator

    def temperature(self) -> float:
        return float(self.rng.choice([0.5, 1.0, 2.0, 4.0, 10.0]))


def draw(seed: int, maps: bool) -> Case:
    """One case: maps (N, C, h, w) with a mask (N, h, w), or rows (B, C) with a mask (B,)."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, (4, 7, 9, 9), size=4) if maps else rng.integers((0, 1), (9, 9), size=2)
    if maps and rng.random() < 0.05:
        shape[0] = 0
    dtype = DTYPES[rng.integers(len(DTYPES))]
    values = []
    for _ in range(2):
        array = rng.standard_normal(shape) * 10.0 ** rng.uniform(-4, 4)
        if rng.random() < 0.1:  # a constant
            array = np.full(shape, array.flat[0] if array.size else 0.0)
        tensor = torch.from_numpy(np.clip(array, -6e4, 6e4)).to(dtype)
        layout = rng.integers(3)
        if maps and layout == 1:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        elif layout == 2:
            tensor = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
        values.append(tensor)
    positions = (shape[0], *shape[2:]) if maps else (shape[0],)
    mask = torch.from_numpy(rng.random(positions) < rng.choice([0.0, 0.3, 1.0]))
    return Case(*values, mask, rng)


def bins(case: Case) -> Tensor:
    student, teacher = (t.repeat(1, 4) for t in (case.student, case.teacher))
    return edge_kl(student, teacher, case.student.shape[1], case.temperature())


def boxes(case: Case) -> Tensor:
    student, teacher = (t[:, :1].expand(-1, 4) for t in (case.student, case.teacher))
    target = torch.from_numpy(case.rng.standard_normal(student.shape)).float()
    return bounded_squared_error(student, teacher, target, float(case.rng.choice([0, 0.1, 1])))


def weighted(case: Case) -> Tensor:
    weights = torch.from_numpy(case.rng.random(case.student.shape[1])).float()
    return weighted_soft_cross_entropy(case.student, case.teacher, weights, case.temperature())


def weighted_binary(case: Case) -> Tensor:
    weights = torch.from_numpy(case.rng.random(case.student.shape[1])).float()
    return weighted_soft_binary_cross_entropy(
        case.student, case.teacher, weights, 1.5, case.temperature()
    )


def pairs(case: Case) -> Tensor:
    scale = float(case.rng.choice([0.2, 0.5, 1.0]))
    found = [pool_nodes(t.float(), case.mask, scale)[0] for t in (case.student, case.teacher)]
    constant = bool(case.rng.integers(2))
    ours, theirs = (affinity(nodes, constant) for nodes in found)
    return (ours - theirs.detach()).square()


def giou(case: Case) -> Tensor:
    found = []
    for values in (case.student, case.teacher):
        corner, size = (values[:, :1] * k for k in (1.0, 0.5))
        found.append(torch.cat([corner, corner, corner + size.abs(), corner + 2 * size.abs()], 1))
    return box_disagreement(*found)


def relations(case: Case) -> Tensor:
    student, teacher = (t.float().softmax(dim=-1) for t in (case.student, case.teacher))
    return correlation(student, teacher, 1) if len(student) else student.sum()


def decoupled(case: Case) -> Tensor:
    classes = case.student.shape[1]
    student, teacher = (t if classes > 1 else t.expand(-1, 2) for t in (case.student, case.teacher))
    target = torch.from_numpy(case.rng.integers(0, student.shape[1], len(student)))
    return torch.stack(decoupled_kl(student, teacher, target, case.temperature()))


def standardized_kl(case: Case) -> Tensor:
    # divided by a deviation that may be 1e-7: the gradient is beyond half precision
    student, teacher = (t.float().repeat(1, 3) for t in (case.student, case.teacher))
    student = student + torch.arange(student.shape[1]) * float(case.rng.choice([0.0, 1e-3, 1.0]))
    return softmax_kl(standardized(student), standardized(teacher), case.temperature())


def attended(case: Case) -> Tensor:
    found = [attention_maps(t.float(), case.mask, case.temperature()) for t in case[:2]]
    return torch.stack([(a - b).abs().sum() for a, b in zip(*found, strict=True)])


def in_context(case: Case) -> Tensor:
    torch.manual_seed(int(case.rng.integers(1 << 31)))
    channels = case.student.shape[1]
    blocks = ContextBlock(channels, ratio=1.0), ContextBlock(channels, ratio=1.0)
    for block in blocks:
        block.channel_add_conv[-1].reset_parameters()
    student, teacher = (
        with_context(block, t.float(), case.mask) for block, t in zip(blocks, case[:2], strict=True)
    )
    return (student - teacher.detach()).square().mean(dim=1)


ON_ROWS: dict[str, Callable[[Case], Tensor]] = {
    'softmax_kl': lambda c: softmax_kl(c.student, c.teacher, c.temperature()),
    'sigmoid_kl': lambda c: sigmoid_kl(c.student, c.teacher, c.temperature()),
    'edge_kl': bins,
    'bounded_squared_error': boxes,
    'binary_distillation': lambda c: binary_distillation(c.student, c.teacher),
    'box_disagreement': giou,
    'correlation': relations,
    'decoupled_kl': decoupled,
    'standardized': standardized_kl,
    'weighted_soft_cross_entropy': weighted,
    'weighted_soft_binary_cross_entropy': weighted_binary,
}
ON_MAPS: dict[str, Callable[[Case], Tensor]] = {
    'masked_squared_error': lambda c: masked_squared_error(c.student, c.teacher, c.mask)[0],
    'masked_absolute_error': lambda c: masked_absolute_error(c.student, c.teacher, c.mask)[0],
    'channel_kl': lambda c: channel_kl(c.student, c.teacher, c.mask, c.temperature()),
    'pixel_kl': lambda c: pixel_kl(c.student, c.teacher, c.mask, c.temperature()),
    'pixel_cross_entropy': lambda c: pixel_cross_entropy(c.student, c.teacher),
    'pool_nodes and affinity': pairs,
    'standardized_squared_error': lambda c: standardized_squared_error(
        c.student, c.teacher, c.mask
    ),
    'attention_maps': attended,
    'with_context': in_context,
}


@pytest.mark.parametrize('name', [*ON_ROWS, *ON_MAPS])
def test_random_cases_are_finite_in_value_and_gradient(name):
    function = (ON_ROWS | ON_MAPS)[name]
    for seed in range(CASES):
        case = draw(seed, maps=name in ON_MAPS)
        if name == 'pool_nodes and affinity':  # by a node's norm, which may be 1e-6: beyond half
            case = case._replace(student=case.student.float())
        case.student.requires_grad_()
        value = function(case)
        assert value.isfinite().all(), (name, seed, value)
        assert not value.requires_grad or value.dtype in (torch.float32, torch.float64), seed
        if value.requires_grad:
            # the gradient of a sum may be beyond the largest number of half precision
            (gradient,) = torch.autograd.grad(value.sum() / 1024, case.student)
            largest = gradient.detach().float().abs().max() if gradient.numel() else 0.0
            assert math.isfinite(float(largest)), (name, seed)
