"""The check of a student with several teachers: a column, or lines of its own, for each."""

import pytest

from kd_dense.check import OK, SKIPPED, WARNING, WRONG, before_training
from kd_dense.datasets import CLASSES
from kd_dense.registry import TEACHERS
from kd_dense.teachers import FrozenTeacher, Teacher
from tests.helpers.models import gfl
from tests.test_check.conftest import check, found, save, the_line
from tests.test_check.test_findings import respoil
from tests.test_check.test_training import runner_of


@TEACHERS.register_module(name='TestWithoutModel', force=True)
class WithoutModel(Teacher):
    """A teacher that offers views, and neither a model to examine nor predictions."""

    def __init__(self, config):
        self.inner = FrozenTeacher(config, untrained=True)

    info = property(lambda self: self.inner.info)
    loaded = property(lambda self: self.inner.loaded)

    def load(self, student):
        self.inner.load(student)

    def view(self, batch, student=None):
        return self.inner.view(batch, student)

    def channels(self, stage, read='features'):
        return self.inner.channels(stage, read)

    def offers(self, read):
        return self.inner.offers(read)


@pytest.fixture
def config(detection, tmp_path):
    """A healthy detection with a big teacher and a small one; each has a loss of its own."""
    config = detection()
    model = config.model
    small = gfl(num_classes=10)
    save(tmp_path / 'small.pth', small)
    model.teachers = dict(
        big=model.pop('teacher'), small=dict(config=small, checkpoint=str(tmp_path / 'small.pth'))
    )
    model.losses.ld.teacher = 'big'
    model.losses.imitation.teacher = 'small'
    return config


def test_nothing_is_found_with_two_healthy_teachers(config):
    report = check(config, validate=2)
    assert [f for f in found(report) if f[1] != 'Quality'] == []  # they are not trained
    assert the_line(report, 'Models', 'big').mark == OK
    for name in ('big', 'small'):
        assert the_line(report, 'Weights', name).data['matched'] > 100
        assert the_line(report, 'Classes', f'{name}: names').mark == OK
        assert the_line(report, 'Preprocessing', f'{name}: together').mark == OK
        assert the_line(report, 'Quality', name).cells
    assert the_line(report, 'Classes', 'number').cells == ('10',) * 4
    sections = {section.title: section.columns for section in report.sections}
    assert sections['Pair'] == ('student', 'big', 'small')
    runner = runner_of(config)
    assert before_training(runner.cfg, runner.model, 'a.py').healthy


def test_what_is_wrong_is_told_of_its_teacher_and_of_the_losses_that_look_at_it(config, tmp_path):
    config.model.teachers.small.config.neck.num_outs = 4
    strides = [8, 16, 32, 64]
    config.model.teachers.small.config.bbox_head.anchor_generator.strides = strides
    save(tmp_path / 'small.pth', config.model.teachers.small.config.to_dict())
    respoil(tmp_path / 'small.pth', dataset_meta=dict(classes=CLASSES[::-1]))
    report = check(config)
    assert found(report) == [(WRONG, 'Classes', 'small: names'), (WRONG, 'Pair', 'strides')]
    line = the_line(report, 'Pair', 'strides')
    assert line.problem.startswith('small: The ') and line.data['losses'] == ['imitation']
    config.model.teachers.big.checkpoint = 'nowhere.pth'
    assert (WRONG, 'Weights', 'big') in found(check(config))


def test_a_teacher_without_a_model_is_told_of_and_passed_over(config):
    config.model.teachers.small = dict(type='TestWithoutModel', config=gfl(num_classes=10))
    report = check(config, validate=2)
    assert [f for f in found(report) if f[1] != 'Quality'] == []
    line = the_line(report, 'Models', 'small')
    assert line.mark == SKIPPED and line.problem == 'a WithoutModel has no model to examine'
    assert the_line(report, 'Quality', 'small').mark == SKIPPED
    assert the_line(report, 'Pair', 'strides').cells == ('8 16 32',) * 3


def test_a_loss_that_looks_at_an_unknown_teacher(config):
    config.model.losses.ld.teacher = 'huge'
    report = check(config)
    assert found(report) == [(WRONG, 'Models', 'losses.ld')]
    assert "choose one of 'big', 'small'" in the_line(report, 'Models', 'losses.ld').problem


def test_a_model_that_comes_without_a_checkpoint_is_not_called_untrained(config, monkeypatch):
    monkeypatch.setattr(FrozenTeacher, 'read_checkpoint', lambda self: None)
    report = check(config)
    assert the_line(report, 'Weights', 'small').mark == OK
    config.model.teachers.small.pop('checkpoint')
    config.model.teachers.small.untrained = True
    assert (WARNING, 'Weights', 'small') in found(check(config))
