"""A stage that tests a student with the bias of one class shifted."""

import json
import sys

import pytest

from kd_dense.chain import finished, read_chain, summary
from kd_dense.chain.rows import points
from kd_dense.chain.training import Means
from kd_dense.errors import SetupError
from kd_dense.report.numbers import Metric
from tests.test_chain.test_real import command, write_configs

SHIFTED = (
    "    shifted=dict(config='small.py', teacher='{large}', evaluates=['{small}'],\n"
    "    options={'model.teacher.untrained': False}, class_bias=dict(three=-2.5)),\n"
)


@pytest.fixture
def file(digits_root, tmp_path, monkeypatch):
    """A chain of a teacher, a student, and the student with a shift."""
    monkeypatch.chdir(tmp_path)
    write_configs(tmp_path, digits_root)
    for name in ('large.py', 'small.py'):
        text = (tmp_path / name).read_text()
        loader = (
            '\ntest_dataloader = val_dataloader\ntest_evaluator = val_evaluator\ntest_cfg = {}\n'
        )
        (tmp_path / name).write_text(text + loader)
    chain = tmp_path / 'chain.py'
    text = chain.read_text().replace('stages = dict(\n', f'stages = dict(\n{SHIFTED}')
    titles = dict(AP='coco/bbox_mAP', right='box_acc/all', shift='shift')
    chain.write_text(f'{text}metrics = {titles}\n')
    return chain


def test_it_is_a_command_that_measures(file):
    shifted = read_chain(file).jobs[-1]
    assert shifted.stage.needs == ('large', 'small')
    words = Means(launcher='pytorch', gpus=2, options=['--amp', '--traceback']).command(shifted)
    assert words[:4] == [sys.executable, '-m', 'kd_dense', 'class-bias']
    assert words[6:] == [
        *('--class', 'three', '--shift=-2.5', '--measure', '--out', 'out/shifted', '--traceback')
    ]


def test_the_shift_belongs_to_what_is_done(file):
    text = file.read_text()
    prints = set()
    for about in ('class_bias=dict(three=-2.5)', "class_bias=dict(three='auto')", ''):
        file.write_text(text.replace('class_bias=dict(three=-2.5)', about))
        prints.add(read_chain(file).jobs[-1].fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('dict(three=-2.5)', 'dict(three=1, two=1)'),
        ('dict(three=-2.5)', "'three'"),
        ("evaluates=['{small}'],", ''),
        ("evaluates=['{small}']", "evaluates=['{small}', '{large}']"),
    ],
)
def test_one_class_of_one_student(file, old, new):
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(SetupError, match="stage 'shifted': class_bias is "):
        read_chain(file)


def test_a_negative_shift_is_a_number_and_a_missing_ap_is_none():
    row = dict(steps=2, validations={'2': {'shift': -2.5, 'coco/three_precision': -1.0}})
    assert points(row, Metric('shift', 'shift', '', 1)) == -2.5
    assert points(row, Metric('coco/three_precision', 'AP of three', '')) is None


def test_the_table_tells_what_the_shift_brought(file):
    done = command(file.parent, 'chain', 'chain.py', '--no-report').wait()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert 'testing shifted' in said
    (line,) = (line for line in said.splitlines() if line.startswith('shifted  '))
    assert '-2.5' in line.split()
    chain = read_chain(file)
    (row,) = finished(chain.jobs)['shifted']
    (measured,) = row['validations'].values()
    assert measured['shift'] == -2.5 and 'box_acc/all' in measured
    (told,) = (file.parent / 'out/shifted').glob('*/*.json')
    assert json.loads(told.read_text())['box_acc/all'] == measured['box_acc/all']
    assert summary(chain, finished(chain.jobs))
    small = next(job for job in chain.jobs if job.stage.name == 'small')
    assert row['parameters'] == small.row['parameters']
