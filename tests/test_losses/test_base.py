"""What all losses share: the weight in force, and one divisor over all ranks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from kd_dense import DistillationLoss, FeatureImitation, LocalizationDistillation, SoftTargets
from kd_dense.losses import global_divisor
from kd_dense.views import Batch, OneStageView
from tests.helpers.models import gfl
from tests.helpers.pairs import BOXES, SIZES, batch_for, build, noted
from tests.helpers.processes import in_ranks

# -- weight ------------------------------------------------------------------------------------


def test_the_weight_in_force_is_weight_times_factor():
    loss = DistillationLoss(weight=0.5)
    assert (loss.scale, loss.active) == (0.5, True)
    loss.factor = 0.2
    assert loss.scale == pytest.approx(0.1) and loss.active
    loss.factor = 0.0
    assert (loss.scale, loss.active) == (0.0, False)
    assert not DistillationLoss(weight=0).active


def test_a_loss_without_parameters_contributes_a_plain_zero():
    value = DistillationLoss().zero_like_parameters(torch.ones(1, 3, 2, 2, dtype=torch.float64))
    assert value.shape == () and value.item() == 0 and value.dtype == torch.float64


def test_a_loss_with_parameters_contributes_a_zero_that_reaches_each_of_them():
    loss = DistillationLoss()
    loss.layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    value = loss.zero_like_parameters(torch.ones(1))
    value.backward()
    assert value.item() == 0
    assert [p.grad.abs().sum().item() for p in loss.parameters()] == [0, 0, 0, 0]


def test_a_bare_loss_asks_and_reads_nothing_and_computes_nothing():
    loss = DistillationLoss()
    assert loss.reads == () and loss.demands(nn.Identity()) == [] and not loss.state_dict()
    assert loss.connect(nn.Identity(), nn.Identity) is None and loss.init_weights() is None
    with pytest.raises(NotImplementedError):
        loss(None, None)


# -- divisor -----------------------------------------------------------------------------------


@pytest.mark.parametrize(('count', 'expected'), [(0, 1), (1, 1), (7, 7), (0.25, 1), (2.5, 2.5)])
def test_the_divisor_is_the_count_but_at_least_one(count, expected):
    divisor = global_divisor(torch.tensor(count))
    assert divisor.item() == expected
    assert divisor.dtype == torch.float32 and divisor.shape == ()


def test_the_divisor_passes_no_gradient_and_leaves_the_count():
    count = torch.tensor([3.0], requires_grad=True)
    assert not global_divisor(count * 2).requires_grad
    assert count.item() == 3


def test_the_divisor_shares_no_memory_with_the_count():
    count = torch.tensor(3.0)
    global_divisor(count).add_(1)
    assert count.item() == 3


# -- two ranks of B equal one process of 2B ----------------------------------------------------

LOSSES = {
    'ld': dict(kind=LocalizationDistillation),
    'vlr': dict(kind=LocalizationDistillation, region='vlr'),
    'cls': dict(kind=SoftTargets, region='main', activation='softmax', temperature=2),
    'all': dict(kind=SoftTargets),
    'imitation': dict(kind=FeatureImitation, region='main', adapter='none'),
    'hint': dict(kind=FeatureImitation, adapter='none'),
    'box': dict(kind=FeatureImitation, region='box', adapter='none'),
}
CASES = {'objects': BOXES, 'one rank without objects': (BOXES[0], ()), 'none': ((), ())}


def losses_and_gradients(images: slice) -> dict[str, tuple[Tensor, Tensor]]:
    """Value and gradient of each loss for some images of each of the cases."""
    results = {}
    student, teacher = build(gfl(), 0), build(gfl(), 1)
    for case, boxes in CASES.items():
        whole = batch_for(student, SIZES, boxes)
        batch = Batch(whole.images[images], whole.samples[images])
        ours, theirs = noted(student, batch), OneStageView(teacher, batch, torch.no_grad)
        for name, choices in LOSSES.items():
            loss = choices['kind'](**{k: v for k, v in choices.items() if k != 'kind'})
            student.zero_grad()
            value = loss(ours, theirs)
            value.backward(retain_graph=True)
            gradient = student.neck.fpn_convs[0].conv.weight.grad.clone()
            results[f'{name}, {case}'] = (value.detach(), gradient)
    results['divisors'] = (
        torch.stack([global_divisor(torch.tensor(c)) for c in (0.0, 0.5)]),
        global_divisor(torch.tensor(float(3 + 4 * (images.start or 0)))),
    )
    return results


def run_rank(other: int, folder: str) -> None:
    """What each of two processes does: this one is rank 0, the other, number 0, is rank 1."""
    rank = other + 1
    distributed.init_process_group(
        'gloo', f'file://{folder}/meet', timedelta(seconds=60), world_size=2, rank=rank
    )
    try:
        torch.save(losses_and_gradients(slice(rank, rank + 1)), f'{folder}/{rank}.pt')
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_of_one_image_equal_one_process_of_two(tmp_path: Path):
    other = in_ranks(run_rank, str(tmp_path), number=1, join=False)
    run_rank(-1, str(tmp_path))
    other.join()
    ranks = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    # at least one over both ranks is half of one on each; 3 and 7 are 10 over both, 5 on each
    for rank in ranks:
        both, three_or_seven = rank.pop('divisors')
        assert both.tolist() == [0.5, 0.5] and three_or_seven.item() == 5
    alone = losses_and_gradients(slice(0, 2))
    del alone['divisors']
    assert set(ranks[0]) == set(ranks[1]) == set(alone) and len(alone) == 21
    for name, (value, gradient) in alone.items():
        values, gradients = zip(*(rank[name] for rank in ranks), strict=True)
        mean, mean_gradient = sum(values) / 2, sum(gradients) / 2
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6, msg=name)
        scale = gradient.abs().max().item()
        torch.testing.assert_close(mean_gradient, gradient, rtol=0, atol=1e-4 * scale, msg=name)
        empty = 'none' in name and name.split(',')[0] not in ('all', 'hint')
        assert (scale == 0) == empty, name
