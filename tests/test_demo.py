"""The demo: stages in order, skipped when done, anew when something changed, and its table."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from mmengine.config import Config, DictAction

from kd_dense.launch import override
from tools.demo import TASKS, report
from tools.demo_stages import Stage, Task, train_all

CONFIGS = Path(__file__).parents[1] / 'configs'
# stands for tools/train.py: notes how it was called, logs a step and an evaluation
TRAIN = """
import argparse, json, pathlib, sys, time, torch
from mmengine.config import DictAction
parser = argparse.ArgumentParser()
parser.add_argument('config'), parser.add_argument('--work-dir', type=pathlib.Path)
parser.add_argument('--resume', action='store_true')
parser.add_argument('--cfg-options', nargs='+', action=DictAction)
args = parser.parse_args()
with open('calls', 'a') as file:
    print(args.work_dir.name, args.cfg_options, file=file)
if args.work_dir.name in pathlib.Path('broken').read_text():
    raise SystemExit('the reason')
print('Iter(train) [ 50/100]  lr: 1  eta: 0:01:02  time: 1', flush=True)
folder = args.work_dir / 'now' / 'vis_data'
folder.mkdir(parents=True, exist_ok=True)  # stopped half-way it begins anew
score = dict(teacher=0.5, student=0.3, distilled=0.4)[args.work_dir.name]
lines = [json.dumps(dict(score=value)) for value in (0, score)]
(folder / 'scalars.json').write_text('\\n'.join(lines))
times = dict(begin='2026-01-01T10:00:00+00:00', end='2026-01-01T10:03:00+00:00')
(args.work_dir / 'run.json').write_text(json.dumps(dict(starts=[times, times])))
for name, width in (('iter_20.pth', 1), ('iter_100.pth', 1000), ('iter_100_student.pth', 1)):
    torch.save(dict(state_dict=dict(weight=torch.zeros(width))), args.work_dir / name)
"""
TAUGHT = ('model.teacher.checkpoint={teacher}', 'model.alone={student}')
TASK = Task(
    folder=Path('out'),
    product='the product',
    minutes=1,
    metrics=dict(Score='score'),
    decimals=3,
    stages=(
        Stage('teacher', 'the teacher', 'teacher.py', 1),
        Stage('student', 'the student alone', 'student.py', 1),
        Stage('distilled', 'the student, taught', 'student.py', 1, TAUGHT, ('teacher', 'student')),
    ),
    data=Path('data'),
    variable='DATA',
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a tool that trains nothing."""
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ('tools/train.py', TRAIN),
        ('data/digits.json', '{}'),
        ('teacher.py', 'width = 2'),
        ('student.py', 'width = 1'),
        ('broken', ''),
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    return tmp_path


def calls() -> list[str]:
    """Names of the stages that were trained since the last call, and their options."""
    lines = Path('calls').read_text().splitlines() if os.path.exists('calls') else []
    Path('calls').write_text('')
    return lines


def names() -> set[str]:
    return {line.split()[0] for line in calls()}


def test_stages_are_trained_in_order_and_the_table_tells_the_gain(folder, capsys):
    results = train_all(TASK)
    *first, last = calls()
    assert {line.split()[0] for line in first} == {'teacher', 'student'}
    assert last.startswith('distilled')
    assert 'out/teacher/iter_100.pth' in last and 'out/student/iter_100.pth' in last
    capsys.readouterr()
    report(TASK, results)
    table = capsys.readouterr().out
    assert 'the student, taught      0.00 M  0.400  +0.100      6.0' in table
    assert 'closed 50% of the gap' in table


def test_what_is_done_is_skipped_and_what_changed_is_trained_again(folder, capsys):
    train_all(TASK)
    assert names() == {'teacher', 'student', 'distilled'}
    train_all(TASK)
    assert names() == set()
    assert capsys.readouterr().out.count('already there') == 3
    Path('teacher.py').write_text('width = 3')
    train_all(TASK)
    assert names() == {'teacher', 'distilled'}
    stages = [*TASK.stages[:2], replace(TASK.stages[2], options=('a=1',))]
    train_all(replace(TASK, stages=tuple(stages)))
    assert names() == {'distilled'}


def test_a_stage_that_fails_is_told_with_its_reason_and_tried_again(folder):
    Path('broken').write_text('student')
    with pytest.raises(SystemExit, match='training the student alone failed: the reason'):
        train_all(TASK)
    calls()
    Path('broken').write_text('')
    train_all(TASK)
    assert {'student', 'distilled'} <= names()


def test_an_interrupted_demo_stops_its_trainings_and_goes_on_later(folder, monkeypatch):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('tools.demo_stages.time.sleep', interrupt)
        with pytest.raises(SystemExit, match='the same command goes on from here'):
            train_all(TASK)
    assert 'result' not in json.loads((folder / 'out/teacher/stage.json').read_text())
    train_all(TASK)
    assert {'teacher', 'student', 'distilled'} <= names()


@pytest.mark.parametrize('name', TASKS)
def test_the_options_fit_the_configs(name, monkeypatch):
    task = TASKS[name]
    monkeypatch.setenv(task.variable, 'elsewhere')
    teacher, student, distilled = task.stages
    paths = dict(teacher='T.pth', student='S.pth')
    options = dict(option.format(**paths).split('=') for option in distilled.options)
    config = Config.fromfile(distilled.config)
    override(config, {k: DictAction._parse_iterable(v) for k, v in options.items()})
    assert config.model.teacher.config == teacher.config
    assert config.model.teacher.checkpoint == 'T.pth'
    (pictures,) = (h for h in config.custom_hooks if h.type == 'kd_dense.DistillationPictureHook')
    assert pictures.alone == 'S.pth'
    assert config.train_cfg.max_iters == Config.fromfile(student.config).train_cfg.max_iters
    assert config.train_dataloader.dataset.data_root == 'elsewhere/'
    told = ''.join(p.read_text() for p in CONFIGS.rglob('digits*.py')).replace(' \\\n#    ', '')
    assert ' '.join(('tools/make_digits.py', str(task.data), *task.scenes)) in told
