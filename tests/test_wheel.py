"""The wheel holds what an installed kd_dense needs, and nothing of the repository besides."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built from a copy: setuptools would take up what an earlier build left here."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    ignore = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / 'kd_dense', source / 'kd_dense', ignore=ignore)
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps']
    command += ['--no-build-isolation', '--disable-pip-version-check', '-w', folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(folder.glob('*.whl'))) as opened:
        yield opened


def test_every_file_of_the_package_is_in_it(wheel):
    package = ROOT / 'kd_dense'
    ours = {
        str(path.relative_to(ROOT))
        for path in package.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert {
        'kd_dense/py.typed',
        'kd_dense/recipes/ld.py',
        'kd_dense/recipes/_base_/distill.py',
        'kd_dense/report/page.html',
        'kd_dense/report/page.css',
    } <= ours
    inside = {name for name in wheel.namelist() if '.dist-info/' not in name}
    assert inside == ours


def test_it_brings_the_command(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith('entry_points.txt'))
    entry = configparser.ConfigParser()
    entry.read_string(wheel.read(name).decode())
    assert dict(entry['console_scripts']) == {'kd-dense': 'kd_dense.commands:main'}
