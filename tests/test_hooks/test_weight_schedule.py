"""Weight schedules: factors, errors, the sleeping teacher, resuming."""

import pytest
from mmengine.hooks import Hook

from kd_dense.errors import SetupError
from kd_dense.hooks import WeightScheduleHook, factor_at

LINEAR = dict(kind='linear', begin=10, end=20)


class Record(Hook):
    """Note what each step is computed with."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def after_train_iter(self, runner, *_, **__) -> None:
        self.seen[runner.iter] = {n: loss.factor for n, loss in runner.model.losses.items()}


@pytest.mark.parametrize(
    ('phases', 'expected'),
    [
        ([LINEAR], {0: 0, 10: 0, 12: 0.2, 15: 0.5, 20: 1, 99: 1}),
        ([LINEAR | dict(start_factor=2, end_factor=1)], {0: 2, 15: 1.5, 30: 1}),
        ([LINEAR | dict(kind='cosine')], {9: 0, 10: 0, 12.5: 0.1464466, 15: 0.5, 20: 1}),
        ([dict(kind='constant', begin=5, factor=0.3)], {0: 0.3, 5: 0.3, 50: 0.3}),
        ([dict(kind='stop', begin=7)], {0: 1, 6: 1, 7: 0, 50: 0}),
        ([LINEAR, dict(kind='stop', begin=30)], {0: 0, 25: 1, 29.9: 1, 30: 0}),
        ([LINEAR, dict(LINEAR, begin=20, end=30, start_factor=1, end_factor=0)], {20: 1, 25: 0.5}),
        ([], {0: 1}),
    ],
)
def test_factors_at_given_times(phases, expected):
    for now, factor in expected.items():
        assert factor_at(phases, now) == pytest.approx(factor), now


@pytest.mark.parametrize(
    ('phases', 'message'),
    [
        ([dict(kind='exp', begin=0)], r"schedules.ld\[0\]: kind is 'exp'; choose one of 'linear'"),
        ([dict(LINEAR, end=10)], 'begin is 10 and end 10'),
        ([LINEAR, dict(kind='constant', begin=15)], r'\[1\].*begins at 15.*until 20'),
        ([dict(kind='stop', begin=5), LINEAR], 'until the end of training'),
        ([dict(kind='constant', begin=5), dict(kind='stop', begin=5)], 'must not overlap'),
        ([dict(kind='stop')], r"missing keys \['begin'\]"),
        ([dict(LINEAR, factor=2)], r"unknown keys \['factor'\]"),
    ],
)
def test_wrong_phases_are_named(phases, message):
    with pytest.raises(SetupError, match=message):
        WeightScheduleHook(dict(ld=phases))


def test_an_unknown_loss_is_named_before_training(training):
    runner = training(
        custom_hooks=[dict(type='kd_dense.WeightScheduleHook', schedules=dict(kd=LINEAR))]
    )
    with pytest.raises(SetupError, match=r"names 'kd'.*'ld', 'imitation', or '\*'"):
        runner.train()


def test_an_unknown_peer_is_named_before_training(training):
    hook = dict(type='kd_dense.WeightScheduleHook', peers=dict(b=LINEAR))
    with pytest.raises(SetupError, match=r"peers names 'b', which is none of the peers"):
        training(custom_hooks=[hook]).train()


def test_after_a_stop_no_loss_is_computed_and_the_teacher_sleeps(training):
    schedules = {
        'ld': dict(kind='linear', begin=0, end=2, start_factor=0.5),
        '*': dict(kind='stop', begin=2),
    }
    schedules['ld'] = [schedules['ld'], schedules['*']]
    hook = dict(type='kd_dense.WeightScheduleHook', schedules=schedules)
    runner = training(custom_hooks=[hook], hooks=[record := Record()])
    calls = []
    runner.model.teacher.model.backbone.register_forward_hook(lambda *_: calls.append(runner.iter))
    runner.model.load_teacher()
    calls.clear()
    runner.train()
    assert record.seen == {
        0: dict(ld=0.5, imitation=1), 1: dict(ld=0.75, imitation=1),
        2: dict(ld=0, imitation=0), 3: dict(ld=0, imitation=0),
    }  # fmt: skip
    assert calls == [0, 1]
    logged = runner.message_hub.log_scalars
    assert list(logged['train/kd_factor/ld'].data[0]) == [0.5, 0.75, 0, 0]
    assert list(logged['train/loss_kd_ld'].data[0][2:]) == [0, 0]
    assert not any('loss' in key for key in logged if 'kd_factor' in key)


def test_only_scheduled_losses_are_touched_and_epochs_count_in_fractions(training):
    hook = WeightScheduleHook({'ld': dict(kind='linear', end=1)}, by_epoch=True)
    runner = training(hooks=[hook, record := Record()])  # 6 steps make one epoch of 12 images
    runner.model.losses['imitation'].factor = 0.125
    runner.train()
    assert record.seen[3] == dict(ld=0.5, imitation=0.125)
    assert 'train/kd_factor/imitation' not in runner.message_hub.log_scalars


def test_resuming_in_the_middle_of_a_ramp_goes_on(training, tmp_path):
    hook = dict(
        type='kd_dense.WeightScheduleHook', schedules={'*': dict(kind='cosine', begin=1, end=4)}
    )
    training(custom_hooks=[hook], hooks=[first := Record()], work_dir='whole').train()
    training(
        custom_hooks=[hook],
        hooks=[second := Record()],
        work_dir='resumed',
        resume=True,
        load_from=str(tmp_path / 'whole' / 'iter_2.pth'),
    ).train()
    assert second.seen == {step: first.seen[step] for step in (2, 3)}
