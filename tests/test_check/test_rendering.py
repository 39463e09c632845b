"""The report as a table, as lines and as JSON, and what its parts read and choose."""

import json

import pytest

from kd_dense.check import WARNING, WRONG, Report
from kd_dense.check.findings import Section
from kd_dense.check.preprocessing import Statistics, trained_with
from kd_dense.check.validation import _tell
from kd_dense.errors import SetupError
from kd_dense.pictures import evenly


@pytest.fixture
def report() -> Report:
    report = Report('configs/a.py')
    weights = report.section('Weights')
    weights.tell('teacher', '2 of 2', 'a.pth', matched=2, total=2)
    weights.summary = 'teacher: 2 of 2'
    classes = report.section('Classes', 'student', 'data')
    classes.tell(
        'number', '3', '10', problem='The head has 3 classes, the data 10.', way_out='Set it.'
    )
    losses = report.section('Losses', 'value')
    losses.tell('losses.a', 'inf', mark=WARNING, problem='It is large.', value=float('inf'))
    losses.skipped('losses.b', 'off')
    return report


def test_the_table(report):
    assert report.as_table() == (
        'Check of configs/a.py\n'
        '\n'
        'Weights\n'
        '  ok       teacher  2 of 2  a.pth\n'
        '\n'
        'Classes\n'
        '                   student  data\n'
        '  wrong    number  3        10\n'
        '             The head has 3 classes, the data 10.\n'
        '             -> Set it.\n'
        '\n'
        'Losses\n'
        '                     value\n'
        '  warning  losses.a  inf\n'
        '             It is large.\n'
        '  -        losses.b\n'
        '             off\n'
        '\n'
        '1 wrong, 1 warning: put right what is wrong before you train.'
    )
    coloured = report.as_table(colour=True)
    assert '\033[31mwrong  \033[0m' in coloured and '\033[32mok     \033[0m' in coloured
    for code in ('31', '32', '33', '2', '0'):
        coloured = coloured.replace(f'\033[{code}m', '')
    assert coloured == report.as_table()


def test_long_sentences_are_wrapped_below_their_line(report):
    report.sections[1].lines[0].problem = 'word ' * 40
    lines = report.as_table(width=70).splitlines()
    assert max(map(len, lines)) <= 70
    assert sum(line.startswith('             word') for line in lines) == 4


def test_sections_without_lines_are_shown(report):
    report.section('Nothing')
    report.section('Nothing either', 'student', 'teacher')
    assert '\n\nNothing\n\nNothing either\n' in report.as_table()


def test_the_lines_for_a_log(report):
    assert report.as_lines().splitlines()[1:4] == [
        '  ok       Weights  teacher: 2 of 2',
        '  wrong    Classes',
        '             The head has 3 classes, the data 10.',
    ]


def test_the_report_for_programs_is_json(report):
    told = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert (told['healthy'], told['wrong'], told['warnings']) == (False, 1, 1)
    weights, classes, losses = told['sections']
    assert weights['lines'][0]['data'] == dict(matched=2, total=2)
    assert classes['lines'][0]['cells'] == dict(student='3', data='10')
    assert classes['lines'][0]['way_out'] == 'Set it.'
    assert losses['lines'][0]['data'] == dict(value='inf')
    assert [section['mark'] for section in told['sections']] == ['ok', 'wrong', 'warning']


def test_errors_become_findings_with_their_place():
    section = Section('x')
    with section.collect_errors('a'):
        raise SetupError('Say what to do.')
    with section.collect_errors('b'):
        {}['missing']
    told = [line.problem for line in section.lines]
    assert told[0] == 'Say what to do.'
    assert told[1].startswith("KeyError: 'missing' (raised in tests/test_check/test_rendering.py:")
    assert section.mark == WRONG


# -- what a checkpoint was trained with ------------------------------------------------------------

TOLD = Statistics((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), rgb=True)
PREPROCESSOR = 'dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=True)'


@pytest.mark.parametrize(
    'text',
    [
        f"model = dict(type='GFL', data_preprocessor={PREPROCESSOR})",
        f'model = dict(student=dict(data_preprocessor={PREPROCESSOR}))',
        f"a = print('never run')\ndata_preprocessor = {PREPROCESSOR}\nmodel = dict(b=None)",
        'img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=(4.0, 5.0, 6.0), to_rgb=True)',
        "model = {'data_preprocessor': " + PREPROCESSOR + '}',
    ],
)
def test_the_config_in_a_checkpoint_tells_its_statistics_without_being_run(text, capsys):
    found = trained_with(dict(meta=dict(cfg=text)))
    assert found == TOLD
    assert trained_with(dict(meta=dict(config=text))) == TOLD
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    'text',
    ['', 'no python at all', 'model = build()', 'model = dict(data_preprocessor=None)', None],
)
def test_a_config_that_does_not_tell(text):
    assert trained_with(dict(meta=dict(cfg=text))) is None
    assert trained_with({}) is None


# -- quality ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('teacher', 'student', 'mark'),
    [
        (0.47, None, 'ok'),
        (0.47, 0.30, 'ok'),
        (0.47, 0.48, WARNING),
        (0.30, 0.47, WRONG),
        (0.004, None, WRONG),
        (0.004, 0.002, WRONG),
        (float('nan'), None, WRONG),
    ],
)
def test_what_is_said_of_a_teacher(teacher, student, mark):
    section = Section('Quality')
    found = {'teacher': ('coco/bbox_mAP', teacher)}
    if student is not None:
        found['student'] = ('coco/bbox_mAP', student)
    _tell(found, 8, section)
    assert section.mark == mark
    percent = {role: ('mIoU', 100 * value) for role, (_, value) in found.items()}
    again = Section('Quality')
    _tell(percent, 8, again)
    assert again.mark == mark


def test_images_are_taken_from_all_over():
    assert evenly(10, 3) == [0, 4, 9]
    assert evenly(3, 10) == [0, 1, 2]
