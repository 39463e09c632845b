"""Loss balance: the training stays the same to the bit, the numbers are right, and what is said."""

import json
import random

import numpy as np
import pytest
import torch

from kd_dense.errors import SetupError
from kd_dense.hooks import LossBalanceHook
from kd_dense.hooks.balance import STUDENT, Measure, find_problems, summarize
from kd_dense.hooks.loss_balance import gradient_norm, measure
from tests.helpers.models import gfl, losses

HOOK = dict(type='kd_dense.LossBalanceHook', steps=3)
NO_SAVING = dict(checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False))


def report(path) -> dict:
    return json.loads((path / 'work' / 'loss_balance.json').read_text())


def test_the_training_is_the_same_to_the_bit(training, tmp_path):
    weights = []
    for hooks in ([], [HOOK]):
        runner = training(custom_hooks=hooks, default_hooks=NO_SAVING)
        runner.train()
        weights.append(runner.model.state_dict())
    assert runner.model.student.backbone.bn1.num_batches_tracked == 4
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


def test_the_numbers_are_those_of_the_steps(training, tmp_path):
    runner = training(custom_hooks=[HOOK], default_hooks=NO_SAVING)
    runner.train()
    found = report(tmp_path)
    logged = runner.message_hub.log_scalars
    kd = sum(logged[f'train/loss_kd_{name}'].data[0][:3] for name in ('ld', 'imitation'))
    own = (logged['train/loss'].data[0][:3] - kd).mean()
    assert found['steps'] == 3
    assert found['student']['value'] == pytest.approx(own, rel=1e-4)
    for name, weight in (('ld', 0.25), ('imitation', 0.1)):
        row = found['losses'][name]
        assert row['weight'] == weight
        assert row['value'] == pytest.approx(logged[f'train/loss_kd_{name}'].data[0][:3].mean())
    rows = [found['student'], *found['losses'].values()]
    assert sum(row['share'] for row in rows) == pytest.approx(1)


def test_measuring_leaves_no_trace(training):
    def draw(*_) -> None:
        torch.rand(1), random.random(), np.random.rand()

    runner = training(default_hooks=NO_SAVING)
    runner.train()
    runner.model.train()
    runner.model.student.backbone.register_forward_pre_hook(draw)
    batch = next(iter(runner.train_dataloader))
    before = (
        {k: v.clone() for k, v in runner.model.state_dict().items()},
        [None if p.grad is None else p.grad.clone() for p in runner.model.parameters()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].copy(),
        [image.clone() for image in batch['inputs']],
        batch['data_samples'][0].metainfo_keys(),
    )
    assert set(measure(runner, batch)) == {STUDENT, 'ld', 'imitation'}
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, before[0][key]), key
    for parameter, grad in zip(runner.model.parameters(), before[1], strict=True):
        assert parameter.grad is grad or torch.equal(parameter.grad, grad)
    assert torch.equal(torch.get_rng_state(), before[2])
    assert random.getstate() == before[3]
    assert (np.random.get_state()[1] == before[4]).all()
    assert all(torch.equal(a, b) for a, b in zip(batch['inputs'], before[5], strict=True))
    assert batch['data_samples'][0].metainfo_keys() == before[6]


def test_a_loss_that_drowns_the_others_is_told_with_a_weight_that_does_not(training, tmp_path):
    training(
        custom_hooks=[HOOK], default_hooks=NO_SAVING, model=dict(losses=losses(ld=1e4, vlr=0))
    ).train()
    found = report(tmp_path)
    assert found['losses']['vlr']['value'] is None
    (warning,) = found['warnings']
    assert 'losses.ld makes 100% of the gradient and drowns the others' in warning
    weight = float(warning.split('model.losses.ld.weight=')[1].split('`')[0])
    student, ld = found['student']['gradient_norm'], found['losses']['ld']['gradient_norm']
    assert weight / 1e4 * ld == pytest.approx(student, rel=0.1)
    (log,) = (tmp_path / 'work').glob('*/*.log')
    text = log.read_text()
    assert 'Balance of the losses (mean of 3 steps' in text
    assert 'drowns the others' in text


def test_dead_and_infinite_losses_are_told():
    class Loss:
        weight = factor = 1.0

    steps = [{STUDENT: Measure(1, 1), 'a': Measure(2, 0), 'b': Measure(float('inf'), 3)}] * 2
    told = find_problems(summarize(steps, dict(a=Loss, b=Loss, off=Loss)), warn_above=0.9)
    assert len(told) == 2
    told = [each.text for each in told]
    assert 'losses.a gives the student no gradient' in told[0]
    assert '`--cfg-options model.losses.a.weight=0`' in told[0]
    assert 'losses.b is not finite (value inf' in told[1]


def test_activation_checkpointing_is_no_obstacle(training, tmp_path):
    student = gfl(num_classes=10)
    student['backbone']['with_cp'] = True
    training(custom_hooks=[HOOK], default_hooks=NO_SAVING, model=dict(student=student)).train()
    assert report(tmp_path)['student']['gradient_norm'] > 0


def test_gradient_norm_is_exact_and_takes_an_overflow_back():
    w, v = torch.tensor([1.0, 2.0], requires_grad=True), torch.ones(3, requires_grad=True)
    loss = 3 * w.sum() + 4 * w[0]
    assert gradient_norm(loss, [w, v]) == pytest.approx((49 + 9) ** 0.5)
    assert gradient_norm(loss, [w, v], scale=1e38) == pytest.approx((49 + 9) ** 0.5)
    assert gradient_norm(torch.ones(()), [w]) == 0
    assert w.grad is None


def test_numbers_out_of_range_are_refused():
    with pytest.raises(SetupError, match='warn_above=0'):
        LossBalanceHook(warn_above=0)
