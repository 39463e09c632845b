"""The check examines an ensemble by its first member, and reads the checkpoints of all."""

import pytest

from kd_dense.check import before_training
from kd_dense.errors import SetupError
from tests.test_check.conftest import TEACHER, check, found, save
from tests.test_check.test_training import runner_of


def with_members(detection, tmp_path, **members):
    config = detection()
    saved = str(save(tmp_path / 'b.pth', TEACHER))
    first = dict(config.model.teacher)
    config.model.teacher = dict(
        type='kd_dense.Ensemble',
        members=dict(a=first, b=dict(config=TEACHER, checkpoint=saved) | members),
    )
    config.model.losses.pop('imitation')
    return config


def test_a_healthy_ensemble_is_examined_and_teaches(detection, tmp_path):
    report = check(with_members(detection, tmp_path))
    assert found(report) == [], report.as_table()
    assert 'losses.ld' in report.as_table()


def test_a_member_whose_checkpoint_is_gone_is_refused_before_training(detection, tmp_path):
    runner = runner_of(with_members(detection, tmp_path, checkpoint='nowhere.pth'))
    with pytest.raises(SetupError, match=r'nowhere\.pth'):
        before_training(runner.cfg, runner.model, 'a.py').refuse()
