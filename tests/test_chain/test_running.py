"""Chains: stages in order, skipped when done, moved aside when changed, and told in a table."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from kd_dense.chain import finished, read_chain, run_chain, summary
from kd_dense.chain.run import prepare
from kd_dense.chain.training import Means
from kd_dense.commands import chain as command
from kd_dense.errors import SetupError

# stands for a training: notes how it was called, logs a step and validations
TRAIN = """
import argparse, json, pathlib, shutil  # not torch, which takes seconds to import
parser = argparse.ArgumentParser()
parser.add_argument('config', type=pathlib.Path), parser.add_argument('folder', type=pathlib.Path)
args = parser.parse_args()
said = {}
exec(args.config.read_text(), said)
name = args.folder.name
with open('calls', 'a') as file:
    seed = (said.get('randomness') or {}).get('seed')
    print(name, seed, said['model'].get('init_cfg'), file=file)
if name in pathlib.Path('broken').read_text():
    raise SystemExit('error: the reason')
print('Iter(train) [ 50/100]  lr: 1  eta: 0:01:02  time: 1', flush=True)
vis = args.folder / 'now' / 'vis_data'
vis.mkdir(parents=True, exist_ok=True)
score = dict(teacher=0.5, alone=0.3, taught=0.4)[name] + 0.01 * (seed or 0)
lines = []
for step in (40, 100):
    lines += [dict(loss=1, step=step), {'coco/bbox_mAP': score * step / 100, 'step': step}]
(vis / 'scalars.json').write_text('\\n'.join(map(json.dumps, lines)))
times = dict(begin='2026-01-01T10:00:00+00:00', end='2026-01-01T10:03:00+00:00')
(args.folder / 'run.json').write_text(json.dumps(dict(starts=[times, times], versions={'x': '1'})))
shutil.copy('large.pth' if name == 'teacher' else 'small.pth', args.folder / 'iter_100.pth')
"""
STAGE = """
model = dict(type='Nothing', width={width})
train_dataloader = dict(dataset=dict(data_root='data/', ann_file='train.json'))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=100, val_interval=10)
param_scheduler = [dict(type='CosineAnnealingLR', begin=20, end=100)]
"""
CHAIN = """
folder = 'out'
stages = dict(
    teacher=dict(title='the teacher', config='large.py', once=True),
    taught=dict(config='small.py', options={'model.init_cfg': '{teacher}'}),
)
compare = dict(alone=dict(config='small.py'))
"""


# stands for Slurm: notes what it was asked for, and runs the training above in the same place
SRUN = """#!{python} -S
import os, subprocess, sys
words = sys.argv[1:]
place = words.index('-m')
options, command = words[:place - 1], words[place:]
with open('asked', 'a') as file:
    print(*options, '|', *command, '|', os.environ['MASTER_PORT'], file=file)
config, folder = command[3], command[command.index('--work-dir') + 1]
sys.exit(subprocess.run([sys.executable, '-S', 'train.py', config, folder]).returncode)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a chain of three stages and a training that trains nothing."""
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ('train.py', TRAIN),
        ('data/train.json', '{}'),
        ('large.py', STAGE.format(width=2)),
        ('small.py', STAGE.format(width=1)),
        ('chain.py', CHAIN),
        ('broken', ''),
        ('calls', ''),
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    for name, width in (('large', 2000), ('small', 1000)):
        torch.save(dict(state_dict=dict(weight=torch.zeros(width))), f'{name}.pth')
    monkeypatch.setattr('kd_dense.chain.run.PACE', 0.02)
    command = Means.command
    monkeypatch.setattr(
        Means,
        'command',
        lambda self, job: (
            command(self, job)
            if self.launcher == 'slurm'
            else [sys.executable, '-S', 'train.py', str(job.config_file), str(job.folder)]
        ),
    )
    return tmp_path


def calls() -> list[str]:
    """Names of the stages that were trained since the last call, with seed and start."""
    lines = Path('calls').read_text().splitlines()
    Path('calls').write_text('')
    return lines


def go(*only: str, seeds=None, side_by_side=1) -> list[str]:
    return run_chain(read_chain('chain.py', seeds), Means(side_by_side), only)


@pytest.mark.parametrize('side_by_side', [1, 3])
def test_stages_are_trained_in_order_and_hand_over_their_students(folder, side_by_side):
    assert go(side_by_side=side_by_side) == []
    done = calls()
    assert sorted(line.split()[0] for line in done) == ['alone', 'taught', 'teacher']
    names = [line.split()[0] for line in done]
    assert names.index('teacher') < names.index('taught')
    assert next(line for line in done if 'taught' in line).endswith('out/teacher/iter_100.pth')


def test_what_is_done_is_skipped_and_what_changed_is_moved_aside(folder, capsys):
    go()
    go()
    assert len(calls()) == 3
    Path('large.py').write_text(STAGE.format(width=3))
    go()
    assert [line.split()[0] for line in calls()] == ['teacher', 'taught']
    assert (folder / 'out/teacher.old/iter_100.pth').is_file()
    assert 'begun with other settings, data or teacher; now in out/teacher.old' in (
        capsys.readouterr().out
    )
    (folder / 'data/train.json').write_text('{"images": []}')
    go()
    assert len(calls()) == 3
    assert (folder / 'out/teacher.old1').is_dir()


def test_where_the_data_lies_does_not_count(folder):
    go()
    calls()
    (folder / 'data').rename(folder / 'elsewhere')
    for name in ('large.py', 'small.py'):
        Path(name).write_text(Path(name).read_text().replace("'data/'", "'elsewhere/'"))
    go()
    assert calls() == []


def test_a_hook_that_only_looks_does_not_count(folder):
    go()
    calls()
    hooks = "custom_hooks = [{}dict(type='kd_dense.LossBalanceHook')]\n"
    Path('small.py').write_text(STAGE.format(width=1) + hooks.format(''))
    go()
    assert sorted(line.split()[0] for line in calls()) == ['alone', 'taught']
    looking = "dict(type='kd_dense.ValidationLossHook', interval=3), "
    Path('small.py').write_text(STAGE.format(width=1) + hooks.format(looking))
    go()
    assert calls() == []


def test_seeds_have_folders_and_what_is_trained_once_serves_them_all(folder, capsys):
    go(seeds=[0, 1, 2], side_by_side=2)
    done = calls()
    assert sum(line.startswith('teacher None') for line in done) == 1
    assert {line.split()[1] for line in done if line.startswith('taught')} == {'0', '1', '2'}
    assert (folder / 'out/seed_2/taught/iter_100.pth').is_file()
    chain = read_chain('chain.py', [0, 1, 2])
    table = '\n'.join(summary(chain, finished(chain.jobs)))
    # scores 0.40, 0.41, 0.42 and 0.30, 0.31, 0.32: seed by seed the gain is always 10 points
    assert '41.0 ± 0.6' in table and '+10.0 ± 0.0' in table and '50.0' in table
    assert 'taught: +10.0 over alone, 95 % within 0.0, 53% of the gap to the teacher.' in table
    assert '16.4 ± 0.2' in table  # at step 40, the first validation behind a third


def test_gains_are_taken_seed_by_seed_of_the_chain(folder):
    Path('chain.py').write_text(CHAIN.replace("'{teacher}'})", "'{teacher}'}, seed=1)"))
    go(seeds=[0, 1])
    chain = read_chain('chain.py', [0, 1])
    rows = finished(chain.jobs)
    assert [row['seed'] for row in rows['taught']] == [1000, 1001]
    # 0.4 + 10.00 and 0.4 + 10.01 less 0.30 and 0.31
    assert any('+1010.0 ± 0.0' in line for line in summary(chain, rows))


def test_the_table_of_one_seed(folder):
    go()
    chain = read_chain('chain.py')
    lines = summary(chain, finished(chain.jobs))
    assert lines[0].split() == [
        'stage',
        'AP',
        'AP',
        'at',
        '1/3',
        'over',
        'alone',
        'parameters',
        'seeds',
        'minutes',
    ]
    assert lines[1].split() == ['the', 'teacher', '50.0', '20.0', '0.00', 'M', '1', '6.0']
    assert lines[3].split() == ['taught', '40.0', '16.0', '+10.0', '0.00', 'M', '1', '6.0']
    assert 'taught: +10.0 over alone, 50% of the gap to the teacher.' in lines


def test_kept_rows_are_done_and_checkpoints_are_trained_again_where_needed(
    folder, monkeypatch, capsys
):
    text = CHAIN + "rows = 'rows'\n"
    Path('chain.py').write_text(text)
    go()
    calls()
    (folder / 'out').rename(folder / 'lost')
    assert json.loads(Path('rows/taught.json').read_text())['row']['minutes'] == 6.0
    assert str(folder) not in Path('rows/taught.json').read_text()
    go()
    assert calls() == []
    chain = read_chain('chain.py')
    assert any('taught' in line for line in summary(chain, finished(chain.jobs)))
    monkeypatch.setattr(sys, 'argv', ['kd-dense chain', 'chain.py', '--table', 'markdown'])
    capsys.readouterr()
    command.main()
    shown = capsys.readouterr().out
    assert '| taught | 40.0 | 16.0 | +10.0 | 0.00 M | 1 | 6.0 |' in shown.splitlines()
    Path('rows/taught.json').unlink()
    go('taught')
    assert [line.split()[0] for line in calls()] == ['teacher', 'taught']


def test_rows_of_what_was_done_before_the_file_kept_any_are_kept_too(folder):
    go()
    calls()
    Path('chain.py').write_text(CHAIN + "rows = 'rows'\n")
    go()
    assert calls() == []
    kept = {file.stem for file in Path('rows').glob('*.json')}
    assert kept == {job.stage.name for job in read_chain('chain.py').jobs}


def test_kept_rows_of_other_settings_or_data_are_shown_and_told_by_name(
    folder, monkeypatch, capsys
):
    text = CHAIN + "rows = 'rows'\n"
    Path('chain.py').write_text(text)
    go()

    def told(form: str) -> tuple[str, str]:
        """The table, and what stands below its own sentences."""
        monkeypatch.setattr(sys, 'argv', ['kd-dense chain', 'chain.py', '--table', form])
        capsys.readouterr()
        command.main()
        *table, last = capsys.readouterr().out.splitlines()
        return '\n'.join(table), last

    before, last = told('text')
    assert last == 'taught: +10.0 over alone, 50% of the gap to the teacher.'
    before = f'{before}\n{last}'
    other = (
        'Kept rows of other settings, data or teachers than the chain file names now: {}. The '
        'chain trains them again.'
    )
    Path('data/train.json').write_text('[]')
    assert told('text') == (before, other.format('teacher; alone; taught'))
    Path('data/train.json').write_text('{}')
    Path('chain.py').write_text(text.replace("'{teacher}'}", "'{teacher}', 'model.width': 7}"))
    assert told('markdown')[1] == f'- {other.format("taught")}'
    Path('small.py').write_text(STAGE.format(width=7))  # its options stay, its config is another
    Path('chain.py').write_text(text)
    assert told('text')[1] == other.format('alone; taught')
    Path('small.py').write_text(STAGE.format(width=1))
    (folder / 'data').rename(folder / 'lost')
    table, last = told('text')
    assert table == before
    assert last == (
        'Kept rows of which nobody can tell without their data and checkpoints whether the chain '
        'file still names them: teacher; alone; taught.'
    )


def test_slurm_runs_each_training(folder, monkeypatch, capsys):
    (folder / 'srun').write_text(SRUN.format(python=sys.executable))
    (folder / 'srun').chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
    monkeypatch.setenv('SRUN_ARGS', '-p "my gpus"')
    options = ['--launcher', 'slurm', '--gpus', '16', '--side-by-side', '2', '--no-report']
    monkeypatch.setattr(sys, 'argv', ['kd-dense chain', 'chain.py', *options])
    command.main()
    assert 'taught: +10.0 over alone' in capsys.readouterr().out
    asked = [line.split(' | ') for line in Path('asked').read_text().splitlines()]
    names = [line[0].split()[0].removeprefix('--job-name=') for line in asked]
    assert sorted(names) == ['alone', 'taught', 'teacher']
    slurm, training, _ = asked[names.index('taught')]
    assert slurm.split()[1:] == [
        '--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8', '--cpus-per-task=5',
        '--kill-on-bad-exit=1', '-p', 'my', 'gpus',
    ]  # fmt: skip
    assert training.split() == [
        '-m', 'kd_dense', 'train', 'out/taught.py', '--work-dir', 'out/taught',
        '--launcher', 'slurm', '--resume',
    ]  # fmt: skip
    assert {line[2] for line in asked} == {'29500', '29501'}  # those side by side do not meet


def test_slurm_that_is_not_there_is_told_before_anything_is_trained(folder, monkeypatch, capsys):
    monkeypatch.setenv('PATH', str(folder))
    monkeypatch.setattr(sys, 'argv', ['kd-dense chain', 'chain.py', '--launcher', 'slurm'])
    with pytest.raises(SystemExit):
        command.main()
    assert 'srun, and there is none on this machine' in capsys.readouterr().err
    assert calls() == [] and not Path('out').exists()


def test_a_stage_that_fails_is_told_and_the_others_go_on(folder):
    Path('broken').write_text('teacher')
    failed = go()
    assert failed[0].startswith('teacher failed: the reason (all of it: out/teacher/train.log)')
    assert failed[1] == 'taught was left out, because teacher failed.'
    assert [line.split()[0] for line in calls()] == ['teacher', 'alone']
    Path('broken').write_text('')
    assert go() == []
    assert [line.split()[0] for line in calls()] == ['teacher', 'taught']


def test_an_interrupted_chain_stops_its_trainings_and_goes_on_later(folder, monkeypatch):
    Path('train.py').write_text('import time; time.sleep(60)')

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    begun = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr('kd_dense.chain.run.time.sleep', interrupt)
        with pytest.raises(KeyboardInterrupt):
            go()
    assert time.monotonic() - begun < 50
    assert 'row' not in json.loads((folder / 'out/teacher/stage.json').read_text())
    Path('train.py').write_text(TRAIN)
    assert go() == []
    assert len(calls()) == 3
    assert not (folder / 'out/teacher.old').exists()


def test_a_chain_waits_for_a_training_that_was_left_behind(folder, capsys):
    go('teacher')
    (folder / 'out/teacher/stage.json').write_text(
        json.dumps(dict(fingerprint=read_chain('chain.py').jobs[0].fingerprint))
    )
    holder = "import sys, time; from filelock import FileLock\nwith FileLock('out/teacher/.lock'):"
    process = subprocess.Popen(
        [sys.executable, '-c', f'{holder}\n print(1, flush=True)\n time.sleep(2)'],
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    assert go('teacher') == []
    assert process.wait() == 0
    assert 'waiting for the training that still goes on in out/teacher' in capsys.readouterr().out


def test_one_process_works_on_a_chain(folder):
    (folder / 'out').mkdir()
    with (
        FileLock('out/.chain.lock', is_singleton=False),
        pytest.raises(SetupError, match='Another process works on out'),
    ):
        go()


def test_commands_that_prepare(folder):
    Path('chain.py').write_text(CHAIN + """prepare = ["python -c 'open(chr(97), chr(119))'"]\n""")
    prepare(read_chain('chain.py'))
    assert Path('a').is_file()
    Path('chain.py').write_text(CHAIN + "prepare = ['kd-dense nonsense']\n")
    with pytest.raises(SetupError, match='`kd-dense nonsense` failed'):
        prepare(read_chain('chain.py'))


def test_a_dry_run_shows_what_would_be_done(folder, monkeypatch, capsys):
    def shown(*arguments: str) -> dict[str, str]:
        monkeypatch.setattr(sys, 'argv', ['kd-dense chain', 'chain.py', '--dry-run', *arguments])
        capsys.readouterr()
        command.main()
        lines = capsys.readouterr().out.splitlines()[1:]
        return {line.split('  ')[0]: line.rsplit('  ', 1)[1] for line in lines}

    to_train = dict.fromkeys(('teacher', 'alone', 'taught'), 'to train')
    assert shown() == to_train
    assert shown('--only', 'alone') == dict(alone='to train')
    assert calls() == []
    go('teacher')
    assert shown() == to_train | dict(teacher='done')
    Path('large.py').write_text(STAGE.format(width=5))
    assert shown()['teacher'] == 'begun otherwise: is moved aside, and trained'
    assert len(shown('--seeds', '4', '5')) == 5
