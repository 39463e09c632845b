"""The short check before a training: it refuses what is wrong, and leaves no trace."""

import pytest
import torch
from mmengine.runner import Runner

from kd_dense.check import before_training
from kd_dense.datasets import CLASSES
from kd_dense.errors import SetupError
from tests.test_check.conftest import found
from tests.test_check.test_findings import respoil


def runner_of(config) -> Runner:
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        config.pop(key)
    config.default_hooks.checkpoint.update(interval=-1, save_last=False)
    return Runner.from_cfg(config)


@pytest.mark.parametrize('kind', ['detection', 'segmenting'])
def test_the_training_is_the_same_to_the_bit(kind, request):
    make = request.getfixturevalue(kind)
    weights = []
    for checks in (False, True):
        runner = runner_of(make())
        if checks:
            report = before_training(runner.cfg, runner.model, 'a.py')
            report.refuse()
        runner.train()
        weights.append(runner.model.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    lines = report.as_lines().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith('Check of a.py (`kd-dense check` looks closer')


def test_all_that_is_wrong_is_refused_at_once(detection, tmp_path):
    config = detection(student=dict(bbox_head=dict(anchor_generator=dict(strides=[4, 8, 16]))))
    respoil(tmp_path / 'teacher.pth', dataset_meta=dict(classes=CLASSES[::-1]))
    runner = runner_of(config)
    with pytest.raises(SetupError) as error:
        before_training(runner.cfg, runner.model, 'a.py').refuse()
    told = str(error.value)
    assert told.startswith('3 things are not right with a.py:\n  - ')
    for part in ('same classes in another order', 'strides of the feature levels', '--no-check'):
        assert part in told


def test_one_finding_is_refused_in_one_sentence(detection):
    runner = runner_of(detection(teacher=dict(checkpoint='nowhere.pth')))
    with pytest.raises(SetupError, match=r'^The checkpoint of the teacher was not found: nowhere'):
        before_training(runner.cfg, runner.model, 'a.py').refuse()


def test_warnings_and_what_will_be_fetched_do_not_stop_a_training(detection):
    student = dict(
        data_preprocessor=dict(bgr_to_rgb=False),
        backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    )
    runner = runner_of(detection(student=student))
    report = before_training(runner.cfg, runner.model, 'a.py')
    report.refuse()
    assert found(report) == [('warning', 'Preprocessing', 'student')]
    assert 'student.backbone: pretrained' in report.as_lines()
    runner.cfg.resume = True
    assert 'student: resumes' in before_training(runner.cfg, runner.model, 'a.py').as_lines()
