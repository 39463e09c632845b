"""tools/check.py, run as a user runs it: exit status, table, JSON."""

import json

import pytest

from tests.test_check.test_findings import half, respoil, snapshot
from tests.test_tools import assert_one_sentence, python


@pytest.fixture
def config(detection, tmp_path):
    """A config file of a healthy detection."""
    detection().dump(tmp_path / 'config.py')
    return tmp_path / 'config.py'


def test_a_healthy_pair_passes_with_time_and_memory(config, tmp_path):
    before = snapshot(tmp_path)
    done = python('check.py', config, '--steps', 1, '--json')
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told['healthy'] and told['warnings'] == 0
    assert [section['title'] for section in told['sections']] == [
        'Models', 'Weights', 'Classes', 'Preprocessing', 'Pair', 'Annotations',
        'One batch of the training set', 'Losses on this batch', 'Cost of a step',
    ]  # fmt: skip
    alone, taught, *parts = told['sections'][-1]['lines']
    for line in (alone, taught):
        assert line['data']['seconds'] > 0 and line['data']['mib'] > 100
    assert {line['item'].split()[-1] for line in parts} >= {'student', 'teacher', 'losses'}
    assert all(line['data']['seconds'] > 0 for line in parts)
    assert snapshot(tmp_path) == before


def test_what_is_wrong_is_told_with_status_1(config, tmp_path):
    respoil(tmp_path / 'teacher.pth', half)
    done = python('check.py', config, '--steps', 0, '--checkpoint', 'gone.pth', COLUMNS='90')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stdout.startswith(f'Check of {config}\n\nModels\n  ok       student')
    assert '\n  wrong    teacher' in done.stdout and '\n  wrong    student' in done.stdout
    assert done.stdout.endswith('2 wrong, 0 warnings: put right what is wrong before you train.\n')


def test_warnings_are_no_failure_but_where_asked_for(config):
    options = ('--steps', 0, '--cfg-options', 'model.student.data_preprocessor.bgr_to_rgb=False')
    done = python('check.py', config, '--strict', *options)
    assert done.returncode == 1 and '0 wrong, 1 warning: look at' in done.stdout


def test_a_config_that_distils_nothing_is_one_sentence(tmp_path, digits_root):
    done = python(
        'check.py', 'configs/digits/gfl_r18-quarter_digits.py', DIGITS_ROOT=str(digits_root)
    )
    assert_one_sentence(done, 'trains a GFL without a teacher')


def test_training_refuses_what_is_wrong_unless_told_otherwise(config, tmp_path):
    path = tmp_path / 'student.pth'
    path.write_bytes((tmp_path / 'teacher.pth').read_bytes())
    respoil(path, lambda state: dict(list(state.items())[:2]))
    options = (config, '--work-dir', tmp_path / 'work', '--cfg-options')
    options += (f'load_from={path}', 'train_cfg.max_iters=1', 'default_hooks.checkpoint.interval=9')
    done = python('train.py', *options)
    assert_one_sentence(done, 'start the rest anew')
    done = python('train.py', *options, '--no-check')
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'Check of' not in done.stdout
