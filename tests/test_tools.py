"""The command-line tools, run as a user runs them."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from kd_dense import growth
from kd_dense.benchmark import PAIRS, Subjects
from kd_dense.commands import benchmark as commands
from kd_dense.commands.benchmark import main as benchmark_main
from kd_dense.hosts import build_model, read_model_config
from tests.helpers.models import distiller, free_port, gfl
from tests.helpers.processes import in_ranks, run

ROOT = Path(__file__).parents[1]


def call(*command: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a command from the root of the repository."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | dict(OMP_NUM_THREADS='1', PYTHON=sys.executable) | environment,
        capture_output=True,
        text=True,
    )


def python(tool: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a tool of ours."""
    return run(f'tools/{tool}', *arguments, **environment)


def assert_one_sentence(done: subprocess.CompletedProcess, *parts: str) -> None:
    """Status 1, and an error in words instead of a traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'Traceback' not in done.stderr
    message = next(line for line in done.stderr.splitlines() if line.startswith('error: '))
    for part in parts:
        assert part in message, message


@pytest.fixture(scope='module')
def pair(tmp_path_factory, digits_root):
    """A distilled checkpoint, the plain student's, and a config whose teacher is gone."""
    folder = tmp_path_factory.mktemp('pair')
    torch.manual_seed(0)
    plain = build_model(Config(gfl(num_classes=10))._cfg_dict)
    plain.init_weights()
    torch.nn.init.zeros_(plain.bbox_head.gfl_cls.bias)  # so that there are detections
    state = plain.state_dict()
    torch.save(dict(state_dict=state, meta={}), folder / 'plain.pth')
    distilled = {f'student.{k}': v for k, v in state.items()} | {
        'losses.imitation.adapters.0.weight': torch.zeros(2)
    }
    torch.save(dict(state_dict=distilled, meta={}), folder / 'distilled.pth')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('DIGITS_ROOT', str(digits_root))
        config = Config.fromfile(ROOT / 'configs' / 'digits/ld_gfl_r18-quarter_digits.py')
    config.model = distiller(
        student=gfl(num_classes=10), teacher=dict(config='gone.py', checkpoint='gone.pth')
    )
    config.dump(folder / 'config.py')
    return folder


def test_testing_takes_either_checkpoint_and_needs_no_teacher(pair):
    metrics = []
    for name in ('distilled', 'plain'):
        work_dir = pair / name
        done = python('test.py', pair / 'config.py', pair / f'{name}.pth', '--work-dir', work_dir)
        assert done.returncode == 0, done.stderr[-2000:]
        file = next(work_dir.glob('*/*.json'))
        metrics.append(json.loads(file.read_text().splitlines()[-1]))
    keys = [key for key in metrics[0] if key.startswith('coco/')]
    assert keys and all(metrics[0][key] == metrics[1][key] for key in keys)


def test_testing_several_checkpoints_evaluates_their_mean(pair, tmp_path):
    both = [pair / 'plain.pth', pair / 'distilled.pth']  # of the same weights: the mean is each
    metrics = []
    for name, checkpoints in (('one', both[:1]), ('both', both)):
        done = python('test.py', pair / 'config.py', *checkpoints, '--work-dir', tmp_path / name)
        assert done.returncode == 0, done.stderr[-2000:]
        file = next((tmp_path / name).glob('*/*.json'))
        metrics.append(json.loads(file.read_text().splitlines()[-1]))
    keys = [key for key in metrics[0] if key.startswith('coco/')]
    assert keys and all(metrics[0][key] == metrics[1][key] for key in keys)


def test_testing_an_ensembles_config_takes_no_checkpoint(pair, tmp_path):
    config = Config.fromfile(pair / 'config.py')
    members = {
        name: dict(config=gfl(num_classes=10), checkpoint=str(pair / f'{name}.pth'))
        for name in ('plain', 'distilled')
    }
    config.model = dict(type='kd_dense.Ensemble', members=members)
    config.dump(tmp_path / 'ensemble.py')
    done = python('test.py', tmp_path / 'ensemble.py', '--work-dir', tmp_path / 'out')
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'coco/bbox_mAP' in next((tmp_path / 'out').glob('*/*.json')).read_text()
    done = python('test.py', tmp_path / 'ensemble.py', pair / 'plain.pth')
    assert_one_sentence(done, 'whose members name their checkpoints: name none')
    assert_one_sentence(python('test.py', pair / 'config.py'), 'Name a checkpoint to evaluate')


def test_testing_on_two_ranks_of_the_cpu(pair):
    done = call(
        'tools/dist_test.sh', pair / 'config.py', pair / 'distilled.pth', 2,
        '--work-dir', pair / 'two', PORT=free_port(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_testing_a_checkpoint_that_does_not_fit_says_so(pair, tmp_path):
    torch.save(dict(state_dict=build_model(gfl(num_classes=4)).state_dict()), tmp_path / 'x.pth')
    done = python('test.py', pair / 'config.py', tmp_path / 'x.pth', '--work-dir', tmp_path)
    assert_one_sentence(done, 'does not fit the student', 'bbox_head.gfl_cls.weight (4, 16, 3, 3)')


def test_training_without_data_says_how_to_get_it(tmp_path):
    done = python(
        'train.py', 'configs/ld_r18.py', '--work-dir', tmp_path, COCO_ROOT=str(tmp_path / 'no')
    )
    assert_one_sentence(done, 'The data is not there', 'cocodataset.org', 'COCO_ROOT')


def test_training_without_the_teachers_checkpoint_says_how_to_get_it(tmp_path, digits_root):
    done = python(
        'train.py', 'configs/digits/ld_gfl_r18-quarter_digits.py', '--work-dir', tmp_path,
        '--cfg-options', 'model.teacher.checkpoint=nowhere.pth', DIGITS_ROOT=str(digits_root),
    )  # fmt: skip
    assert_one_sentence(done, 'nowhere.pth', 'kd-dense train configs/digits/gfl_r18-half_digits.py')


def test_a_config_that_is_not_there_is_named(tmp_path):
    assert_one_sentence(python('train.py', 'configs/no_such.py'), 'configs/no_such.py')


def test_slurm_script_starts_one_torchrun_per_machine(tmp_path):
    fake = tmp_path / 'srun'
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$NNODES $PORT" "$@"\n')
    fake.chmod(0o755)
    done = call(
        'tools/slurm_train.sh', 'gpu', 'job', 'configs/ld_r18.py', '--amp',
        PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='16', GPUS_PER_NODE='8', PORT='1234',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == '2 1234'
    assert {'--nodes=2', '--ntasks-per-node=1', '--gres=gpu:8', '-p', 'gpu'} <= set(lines)
    assert lines[-3:] == ['configs/ld_r18.py', '8', '--amp']


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_scripts_without_arguments_show_their_usage(script):
    done = call(f'tools/{script}')
    assert done.returncode == 2
    assert f'{script}' in done.stderr and done.stderr.startswith('usage:')


def test_plot_says_that_nothing_was_logged_yet(tmp_path):
    folder = tmp_path / 'a' / '20260101' / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(json.dumps(dict(step=1, time=0.1)))
    done = python('plot.py', tmp_path / 'a', '--out', tmp_path / 'x.png')
    assert done.returncode == 1 and not (tmp_path / 'x.png').exists()
    text = ' '.join(done.stderr.split())
    assert 'has logged a loss or a metric yet, only step, time.' in text
    assert 'Traceback' not in text


def test_plot_draws_several_trainings(tmp_path):
    for name, offset in (('a', 0.0), ('b', 0.1)):
        folder = tmp_path / name / '20260101' / 'vis_data'
        folder.mkdir(parents=True)
        lines = []
        for step in range(10, 50, 10):
            lines.append(dict(step=step, loss=1 / step + offset))
            lines.append({'step': 0, 'coco/bbox_mAP': step / 100, 'mIoU': step})
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    from kd_dense.logs import curve, read_scalars

    scalars = read_scalars(tmp_path / 'a')
    assert curve(scalars, 'coco/bbox_mAP') == ([10, 20, 30, 40], [0.1, 0.2, 0.3, 0.4])
    resumed = [*scalars, dict(step=30, loss=7.0)]
    assert curve(resumed, 'loss') == ([10, 20, 30, 40], [0.1, 0.05, 7.0, 0.025])
    out = tmp_path / 'curves.png'
    done = python('plot.py', tmp_path / 'a', tmp_path / 'b', '--out', out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes()[:4] == b'\x89PNG' and out.stat().st_size > 5000
    segmentation = (tmp_path / 'a', '--keys', 'mIoU', '--out', tmp_path / 'miou.png')
    assert python('plot.py', *segmentation).returncode == 0
    assert 'was never logged' in python('plot.py', tmp_path / 'a', '--keys', 'x').stderr
    assert 'No training was logged' in python('plot.py', tmp_path).stderr


def benchmark(_: int, pair: str, images: int, folder: Path) -> None:
    """Time a pair once, in small images, with a small teacher in the place of the large one."""
    known = PAIRS[pair]
    assert read_model_config(known.teacher, 'teacher').backbone.depth == 101
    teacher = Subjects(pair, images, (64, 64), 'cpu').student_config()
    Config(dict(model=teacher)).dump(folder / 'teacher.py')
    PAIRS[pair] = replace(known, teacher=str(folder / 'teacher.py'))
    options = ('--size', 64, '--rounds', 1, '--no-memory', '--out', folder / 'numbers.json')
    sys.argv = ['kd-dense', *map(str, ('--pair', pair, '--images', images, *options))]
    with (folder / 'said').open('w') as file, redirect_stdout(file):
        benchmark_main()


def grow(_: int, folder: Path) -> None:
    """See what a step of small images costs, with the student in the teacher's place."""
    given = dict(pair='gfl', device='cpu', images=1, size=(64, 64))
    small = Subjects(**given).student_config()
    Config(dict(model=small)).dump(folder / 'teacher.py')
    PAIRS['gfl'] = replace(PAIRS['gfl'], teacher=str(folder / 'teacher.py'))
    commands.SERIES = growth.SERIES = dict(images=(1, 2), losses=(2, 99))
    words = ('--size', '64x96', '--rounds', 1, '--images', 1, '--no-memory', '--growth')
    sys.argv = ['kd-dense', *map(str, (*words, '--out', folder / 'numbers.json'))]
    with (folder / 'said').open('w') as file, redirect_stdout(file):
        benchmark_main()


@pytest.mark.slow
def test_growth_varies_one_thing_at_a_time(tmp_path):
    in_ranks(grow, tmp_path, number=1)
    found = json.loads((tmp_path / 'numbers.json').read_text())
    assert [row['value'] for row in found['images']] == [1, 2]
    assert [row['value'] for row in found['losses']] == [2]  # there are no 99
    assert all(row['plain'] > 0 and row['ours'] > 0 for row in found['images'])
    said = (tmp_path / 'said').read_text()
    assert said.startswith('1 x 64 x 96 on cpu') and said.count('ours / plain') == 2


def test_a_straight_line_in_words():
    rows = [dict(value=x, plain=1 + 2 * x, ours=x + 4.0 * (x == 3)) for x in (1, 2, 3)]
    *_, plain, ours = growth.lines('images', rows)
    assert plain == 'plain: within 0% of 1 + 2 an image'
    assert ours == 'ours: within 67% of -2.67 + 3 an image'


SUBJECTS = [
    ('gfl', 1, 12, 'x student + teacher  x mmdet LD'),
    ('faster_rcnn', 1, 7, 'x student + teacher'),
    ('pspnet', 2, 10, 'x student + teacher + critic'),
]


@pytest.mark.slow
@pytest.mark.parametrize(('pair', 'images', 'number', 'said'), SUBJECTS)
def test_benchmark_measures_every_subject(pair, images, number, said, tmp_path):
    in_ranks(benchmark, pair, images, tmp_path, number=1)
    medians = json.loads((tmp_path / 'numbers.json').read_text())['medians']
    assert len(medians) == number and all(value > 0 for value in medians.values())
    assert list(medians)[: number - 1] == list(PAIRS[pair].subjects)
    table = (tmp_path / 'said').read_text()
    assert said in table and 'of our step' in table
