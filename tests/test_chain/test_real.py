"""A chain of real trainings: equal to the plain configs to the bit, also when it is killed."""

import time
from pathlib import Path

import torch
from mmengine.config import Config

from kd_dense.chain import read_chain
from tests.helpers.models import gfl
from tests.helpers.processes import Command
from tests.helpers.trainings import ROOT, assert_same, base_config


def write_configs(folder: Path, digits_root: Path) -> None:
    """A teacher and a distillation of a few steps, as files."""
    whole = base_config(digits_root, folder / 'unused')
    whole.pop('work_dir'), whole.pop('experiment_name')
    teacher = gfl(channels=32, num_classes=10)
    Config(whole | dict(model=teacher)).dump(folder / 'large.py')
    distillation = whole | dict(custom_hooks=[dict(type='kd_dense.StudentCheckpointHook')])
    distillation['model']['teacher'] = dict(config=teacher, untrained=True)
    Config(distillation).dump(folder / 'small.py')
    (folder / 'chain.py').write_text(
        "folder = 'out'\nrows = 'rows'\nstages = dict(\n"
        "    large=dict(config='large.py'), small=dict(config='small.py', teacher='{large}',\n"
        "    options={'model.teacher.untrained': False}, steps=6))\n"
    )


def command(folder: Path, *arguments: str) -> Command:
    """Start a command of ours."""
    return Command(['-m', 'kd_dense', *arguments], folder, PYTHONPATH=str(ROOT))


def weights(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def test_a_killed_chain_ends_as_the_plain_config_does(digits_root, tmp_path, monkeypatch):
    write_configs(tmp_path, digits_root)
    process = command(tmp_path, 'chain', 'chain.py', '--no-report')
    while not (tmp_path / 'out/small/iter_3.pth').exists():  # in the second stage, stretched
        assert process.poll() is None, process.wait().stderr
        time.sleep(0.01)
    process.kill()
    done = command(tmp_path, 'chain', 'chain.py', '--no-report').wait()
    said = done.stdout
    assert done.returncode == 0, done.stderr
    assert 'going on with small' in said and 'training' not in said.split('going on')[0], said
    assert [line.split()[-3] for line in said.splitlines() if line.startswith('small  ')] == ['M']

    done = command(tmp_path, 'train', 'out/small.py', '--work-dir', 'plain').wait()
    assert done.returncode == 0, done.stderr
    names = ('iter_6.pth', 'iter_6_student.pth')
    for name in names:
        assert_same(
            weights(tmp_path / 'out/small' / name), weights(tmp_path / 'plain' / name), name
        )
    written = Config.fromfile(tmp_path / 'out/small.py')
    assert written.model.teacher.checkpoint == 'out/large/iter_4.pth'
    monkeypatch.chdir(tmp_path)
    assert all(job.trained and job.row_file.is_file() for job in read_chain('chain.py').jobs)
