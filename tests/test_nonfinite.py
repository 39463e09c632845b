"""Values that are not finite: they stay out of the weights, and are told of."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from kd_dense import MODELS
from kd_dense.errors import SetupError
from kd_dense.losses.regions import REGIONS
from kd_dense.nonfinite import StepGuard, are_finite
from kd_dense.training import train
from kd_dense.views import Batch
from tests.helpers.models import distiller, losses
from tests.helpers.pairs import raw
from tests.helpers.trainings import training

OPTIMIZER = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.1),
    clip_grad=dict(max_norm=35),
)


def started(**changes) -> tuple[torch.nn.Module, object]:
    """A distiller in training and its optimizer."""
    torch.manual_seed(0)
    model = MODELS.build(distiller(**changes))
    model.init_weights()
    return model.train(), build_optim_wrapper(model, copy.deepcopy(OPTIMIZER))


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def spoil_teacher(model: torch.nn.Module, value: float) -> None:
    """Put a value into a corner of the teacher's first map, where the smaller image is padded."""
    view = model.teacher.view

    def spoilt(batch: Batch, student=None):
        seen = view(batch, student)
        features = [level.clone() for level in seen.features]
        features[0][1, 3, -1, -1] = value
        seen.features = tuple(features)
        return seen

    model.teacher.view = spoilt


@pytest.mark.parametrize('value', [float('inf'), float('nan')])
@pytest.mark.parametrize('criterion', ['l1', 'l2'])
@pytest.mark.parametrize('region', [name for name in REGIONS if name != 'general'])
def test_what_is_not_finite_outside_a_region_does_no_harm(region, criterion, value):
    hint = dict(type='kd_dense.FeatureImitation', region=region, criterion=criterion)
    model, wrapper = started(losses=dict(hint=hint))
    clean, clean_wrapper = started(losses=dict(hint=hint))
    spoil_teacher(model, value)
    logs = model.train_step(raw(), wrapper)
    expected = clean.train_step(raw(), clean_wrapper)
    assert torch.equal(logs['loss_kd_hint'], expected['loss_kd_hint']) and logs['loss_kd_hint'] > 0
    for ours, theirs in zip(weights(model), weights(clean), strict=True):
        assert torch.equal(ours, theirs)


def test_pkd_does_not_look_at_the_padding():
    pkd = dict(pkd=dict(type='kd_dense.PearsonDistillation'))
    (model, wrapper), (clean, clean_wrapper) = started(losses=pkd), started(losses=pkd)
    spoil_teacher(model, float('inf'))
    logs, expected = model.train_step(raw(), wrapper), clean.train_step(raw(), clean_wrapper)
    assert torch.equal(logs['loss_kd_pkd'], expected['loss_kd_pkd'])
    assert all(map(torch.equal, weights(model), weights(clean)))


def poisoned_gradient(model: torch.nn.Module, on: bool = True):
    """Let one gradient of the student come out as NaN."""
    parameter = model.student.bbox_head.gfl_cls.weight
    return parameter.register_hook(lambda gradient: gradient * float('nan' if on else 1.0))


def test_a_step_with_a_gradient_that_is_not_finite_is_left_out_whole():
    (model, wrapper), (other, other_wrapper) = started(), started()
    model.train_step(raw(seed=0), wrapper)
    other.train_step(raw(seed=0), other_wrapper)
    before = weights(model)
    handle = poisoned_gradient(model)
    model.train_step(raw(seed=1), wrapper)
    assert all(map(torch.equal, weights(model), before))  # neither momentum nor decay moved them
    assert model.step_guard.skipped.counts == {'student': 1}
    handle.remove()
    assert same_states(model, other)  # the statistics of batch norms included
    for model_, wrapper_ in ((model, wrapper), (other, other_wrapper)):
        model_.train_step(raw(seed=2), wrapper_)
    assert same_states(model, other)


def same_states(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models of one config have equal weights and statistics."""
    ours, theirs = model.state_dict(), other.state_dict()
    assert any('running_var' in name for name in ours)
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_statistics_that_are_not_finite_are_put_back():
    model, wrapper = started()
    model.train_step(raw(seed=0), wrapper)
    before = copy.deepcopy(model.state_dict())
    spoilt = model.student.backbone.conv1.register_forward_hook(lambda m, i, out: out * torch.inf)
    model.train_step(raw(seed=1), wrapper)
    spoilt.remove()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_overflow_of_mixed_precision_puts_back_only_statistics_that_are_not_finite():
    model, wrapper = started()
    guard = StepGuard()
    guard.keep_statistics(model)
    wrapper.loss_scaler = Scaler([8, 4, 4, 2])
    norm = model.student.backbone.bn1
    kept = norm.running_mean.clone()
    guard.check_scalers(wrapper)
    norm.running_mean.add_(1.0)
    guard.check_scalers(wrapper)  # an overflow, as is expected now and then
    assert torch.equal(norm.running_mean, kept + 1)
    norm.running_mean.fill_(float('nan'))
    guard.check_scalers(wrapper)
    guard.check_scalers(wrapper)
    assert torch.equal(norm.running_mean, kept)


def test_a_student_that_learns_nothing_any_more_ends_the_training():
    model, wrapper = started()
    model.step_guard = StepGuard(most_in_a_row=3)
    handle = poisoned_gradient(model)
    for _ in range(2):
        model.train_step(raw(), wrapper)
    handle.remove()
    model.train_step(raw(), wrapper)  # a good one in between: counted anew
    before = weights(model)
    poisoned_gradient(model)
    for _ in range(2):
        model.train_step(raw(), wrapper)
    with pytest.raises(SetupError, match='3 steps of the student in a row'):
        model.train_step(raw(), wrapper)
    assert all(map(torch.equal, weights(model), before))


class Scaler:
    """What of a loss scaler the guard looks at."""

    def __init__(self, scales: list[float]) -> None:
        self.scales = scales

    def get_scale(self) -> float:
        return self.scales.pop(0)


def test_overflows_in_a_row_of_mixed_precision_end_the_training_too():
    _, wrapper = started()
    guard = StepGuard(most_in_a_row=3)
    wrapper.loss_scaler = Scaler([8, 4, 2, 2, 4, 2, 1, 0.5])
    for _ in range(7):
        guard.check_scalers(wrapper)
    with pytest.raises(SetupError, match='3 steps of the student in a row'):
        guard.check_scalers(wrapper)


def test_a_guard_watches_each_optimizer_once():
    model, wrapper = started()
    for _ in range(3):
        model.step_guard.watch(wrapper)
    poisoned_gradient(model)
    model.train_step(raw(), wrapper)
    assert model.step_guard.skipped.counts == {'student': 1}


def test_the_training_tool_guards_each_distillation(digits_root, tmp_path, monkeypatch):
    config = training(digits_root, tmp_path / 'out')
    config.train_cfg.max_iters = 1
    config.custom_hooks = []
    config.experiment_name = 'guarded'
    seen = []
    monkeypatch.setattr(Runner, 'register_hook', lambda self, hook, *_: seen.append(type(hook)))
    monkeypatch.setattr(Runner, 'train', lambda self: seen.append('trains'))
    options = dict(amp=False, auto_scale_lr=False, resume=None, no_check=True)
    options |= dict(stored=None, store_views=None)
    train(config, type('Options', (), options), 'guarded')
    assert [getattr(kind, '__name__', kind) for kind in seen][-2:] == ['AroundStepHook', 'trains']


def test_finite_values():
    assert are_finite([]) and are_finite([torch.zeros(0), torch.tensor([1e30, -1e38])])
    assert not are_finite([torch.ones(2), torch.tensor([0.0, float('nan')])])
    assert not are_finite([torch.tensor([float('-inf')])])


def test_losses_of_all_kinds_are_watched(tmp_path: Path):
    model, wrapper = started(losses=losses())
    model.train_step(raw(), wrapper)
    assert model.step_guard.skipped.counts == {}
    assert model.step_guard.in_a_row == {'student': 0}
