"""The install script says what is wrong in one sentence, and all pinned versions agree.

Nothing is downloaded.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
from mmcv import ops

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path):
    """A folder with what the install script reads, and no .venv."""
    folder = tmp_path / 'project'
    (folder / 'tools').mkdir(parents=True)
    for name in ('Makefile', 'requirements.txt', 'setup.py', 'tools/install.sh'):
        shutil.copy(ROOT / name, folder / name)
    return folder


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def install(project: Path, command: tuple = ('tools/install.sh',), **variables: str):
    """Run the script with a working Python and the given environment variables."""
    # Not CXX, nor what a surrounding make hands down to its commands.
    kept = {k: v for k, v in os.environ.items() if k not in ('CXX', 'MAKEFLAGS', 'MFLAGS')}
    env = {**kept, 'PYTHON': sys.executable, 'KD_DENSE_MIN_DISK_GB': '0', **variables}
    return subprocess.run(command, cwd=project, env=env, text=True, capture_output=True, timeout=60)


def assert_refused(result, project: Path, *words: str) -> None:
    """It failed with one sentence that holds the words, before writing anything."""
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith('install: ')
    for word in words:
        assert word in lines[0]
    assert not (project / '.venv').exists()


def bin_without_compiler(folder: Path) -> str:
    """A PATH with the everyday commands and no compiler."""
    folder.mkdir()
    names = 'bash awk cat cksum cut df dirname du env grep mktemp rm sed'
    for name in names.split():
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


@pytest.mark.parametrize('version', ['3.8', '3.10', '3.14'])
def test_python_of_another_version(project, tmp_path, version):
    executable(tmp_path / 'bin' / 'python3', f'#!/bin/sh\necho {version}\n')
    result = install(project, PYTHON='', PATH=f'{tmp_path}/bin:{os.environ["PATH"]}')
    assert_refused(
        result,
        project,
        'Python 3.11 or 3.12 is needed',
        f"'python3' is Python {version}",
        'make demo PYTHON=python3.11',
    )


def test_python_that_does_not_run(project):
    result = install(project, PYTHON='/no/such/python')
    assert_refused(result, project, "'/no/such/python' does not run", 'make demo PYTHON=python3.11')


def test_python_without_venv(project, tmp_path):
    stub = executable(
        tmp_path / 'python',
        f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n',
    )
    result = install(project, PYTHON=str(stub))
    assert_refused(result, project, 'has no venv module', 'apt install python3.1')


def test_no_compiler(project, tmp_path):
    result = install(project, PATH=bin_without_compiler(tmp_path / 'bin'))
    assert_refused(result, project, 'neither g++ nor c++ was found', 'apt install g++', 'CXX=')


def test_compiler_that_is_not_one(project):
    result = install(project, CXX='/nonexistent')
    assert_refused(result, project, "'/nonexistent' cannot compile", 'C++17', 'CXX=')


def test_python_headers_missing(project, tmp_path):
    stub = executable(
        tmp_path / 'c++', '#!/bin/sh\ncase "$*" in *header.cpp*) exit 1;; esac\nexit 0\n'
    )
    result = install(project, CXX=str(stub))
    assert_refused(result, project, 'Python.h was not found in /', 'apt install python3.1', '-dev')


def test_too_little_disk_space(project):
    result = install(project, KD_DENSE_MIN_DISK_GB='999999')
    assert_refused(
        result, project, '999999 GB of free disk space', 'has ', 'KD_DENSE_MIN_DISK_GB to a smaller'
    )


def test_make_shows_the_sentence_too(project):
    result = install(project, command=('make', 'demo', 'CXX=/nonexistent'))
    assert result.returncode != 0
    assert "'/nonexistent' cannot compile" in result.stderr


def make_up_to_date(project: Path, version: str = '3.11') -> None:
    executable(project / '.venv' / 'bin' / 'python', f'#!/bin/sh\necho {version}\n')
    fingerprint = subprocess.check_output(
        ['bash', '-c', 'source tools/install.sh; fingerprint'], cwd=project
    )
    (project / '.venv' / '.installed').write_bytes(fingerprint)


def snapshot(folder: Path) -> dict:
    return {p: p.stat().st_mtime_ns for p in folder.rglob('*')}


def test_up_to_date_returns_at_once(project):
    make_up_to_date(project)
    before = snapshot(project)
    start = time.monotonic()
    result = install(project, PYTHON='', CXX='/nonexistent', KD_DENSE_MIN_DISK_GB='999999')
    assert time.monotonic() - start < 1
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')
    assert snapshot(project) == before


@pytest.mark.parametrize('name', ['requirements.txt', 'setup.py'])
def test_changed_pins_are_not_up_to_date(project, name):
    make_up_to_date(project)
    with (project / name).open('a') as file:
        file.write('# changed\n')
    result = install(project, PYTHON='', CXX='/nonexistent')
    assert "'/nonexistent' cannot compile" in result.stderr


def test_moved_folder_is_not_up_to_date(project, tmp_path):
    make_up_to_date(project)
    moved = project.rename(tmp_path / 'moved')
    result = install(moved, PYTHON='', CXX='/nonexistent')
    assert "'/nonexistent' cannot compile" in result.stderr


def test_environment_of_another_python(project, tmp_path):
    make_up_to_date(project, version='3.12')
    other = executable(tmp_path / 'python3.11', '#!/bin/sh\necho 3.11\n')
    result = install(project, PYTHON=str(other))
    assert result.returncode == 1
    assert '.venv was made with Python 3.12' in result.stderr
    assert 'python3.11 is Python 3.11: leave PYTHON out' in result.stderr


def test_environment_whose_python_is_gone(project):
    (project / '.venv' / 'bin').mkdir(parents=True)
    (project / '.venv' / 'bin' / 'python').symlink_to('/no/such/python')
    result = install(project, PYTHON='')
    assert result.returncode == 1
    assert '.venv/bin/python does not run any more' in result.stderr
    assert 'rm -rf .venv' in result.stderr


def test_failing_pip_ends_in_one_sentence(project, tmp_path):
    """A Python whose `-m venv` makes a Python whose pip finds the disk full."""
    broken = executable(
        tmp_path / 'broken',
        '#!/bin/sh\n'
        'case "$*" in\n'
        '  "-m pip --version") exit 0;;\n'
        '  *"pip install"*) echo "OSError: [Errno 28] No space left on device"; exit 1;;\n'
        'esac\n'
        f'exec "{sys.executable}" "$@"\n',
    )
    python = executable(
        tmp_path / 'python',
        '#!/bin/sh\n'
        'case "$*" in "-m venv .venv")\n'
        f'  mkdir -p .venv/bin; cp {broken} .venv/bin/python; exit;;\n'
        'esac\n'
        f'exec "{sys.executable}" "$@"\n',
    )
    result = install(project, PYTHON=str(python))
    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert 'stage 1/4 environment failed: the disk is full' in sentence
    assert '.venv/install.log' in sentence
    assert 'goes on where it stopped' in sentence
    assert not (project / '.venv' / '.installed').exists()


@pytest.mark.parametrize(
    ('log', 'words'),
    [
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        ("Retrying after connection broken by 'NewConnectionError(...)'\nERROR: No", 'no network'),
        ('c++: fatal error: Killed signal terminated program cc1plus', 'MAX_JOBS=1'),
        (
            'a.cpp:3:10: fatal error: b.h: No such file\nc.cpp:1:1: error: c\nERROR: Failed',
            'a.cpp:3:10: fatal error: b.h: No such file',
        ),
        (
            'working\n  RuntimeError: no CUDA\nERROR: Failed building wheel\nbye',
            'RuntimeError: no CUDA',
        ),
        ('ERROR: No matching distribution found for a==1', 'No matching distribution'),
        ('only words', 'only words'),
    ],
)
def test_reason_of_a_failure(project, log, words):
    (project / 'log').write_text(log + '\n')
    reason = subprocess.check_output(
        ['bash', '-c', 'source tools/install.sh; reason log'], cwd=project, text=True
    )
    assert words in reason
    assert reason.count('\n') == 1


@pytest.mark.parametrize(
    ('prints', 'words'),
    [('echo 13.0', 'install the CUDA toolkit 13.0 and set CUDA_HOME'), ('true', ''), ('false', '')],
)
def test_gpu_without_a_cuda_compiler(project, tmp_path, prints, words):
    stub = executable(tmp_path / 'python', f'#!/bin/sh\n{prints}\n')
    result = install(project, command=('bash', '-c', f'. tools/install.sh; py={stub}; check_cuda'))
    assert result.returncode == (1 if words else 0)
    assert words in result.stderr
    assert bool(result.stderr) == bool(words)


def test_half_installed_packages_are_forgotten(project):
    packages = project / '.venv' / 'lib' / 'python3.11' / 'site-packages'
    for file in ('whole/METADATA', 'whole/RECORD', 'half/METADATA'):
        file = file.replace('/', '-1.dist-info/')
        (packages / file).parent.mkdir(parents=True, exist_ok=True)
        (packages / file).write_text('text')
    subprocess.check_call(
        ['bash', '-c', 'source tools/install.sh; forget_half_installed'], cwd=project
    )
    assert [p.name for p in packages.iterdir()] == ['whole-1.dist-info']


def locked() -> dict[str, str]:
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    pins = [line.split(';')[0].strip() for line in lines if line and not line.startswith('#')]
    assert all(re.fullmatch(r'[a-z0-9.-]+==[\w.]+', pin) for pin in pins), pins
    return dict(pin.split('==') for pin in pins)


def declared() -> dict[str, list[str]]:
    """Requirements in setup.py: install_requires as "install" and each extra by its name."""
    code = (
        'import json, setuptools\n'
        'kept = {}\n'
        'setuptools.setup = lambda **keywords: kept.update(keywords)\n'
        'exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py"})\n'
        'print(json.dumps({"install": kept["install_requires"], **kept["extras_require"]}))\n'
    )
    return json.loads(subprocess.check_output([sys.executable, '-c', code], cwd=ROOT, text=True))


def test_development_tools_have_one_version_everywhere():
    pins = locked()
    dev = dict(requirement.split('==') for requirement in declared()['dev'])
    assert {'pytest', 'ruff', 'mypy'} <= set(dev)
    assert dev == {name: pins[name] for name in dev}
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert re.findall(r'rev: v(\S+)', hooks) == [pins['ruff']]


def test_the_lock_lies_in_the_declared_ranges():
    requirements = pytest.importorskip('packaging.requirements')
    pins = locked()
    for group in declared().values():
        for text in group:
            requirement = requirements.Requirement(text)
            assert requirement.specifier.contains(pins[requirement.name]), text


def test_the_lock_holds_the_headless_opencv_alone():
    assert 'opencv-python-headless' in locked()
    assert 'opencv-python' not in locked()


def test_setup_does_not_import_torch():
    code = (
        'import sys; sys.argv = ["setup.py", "--version"]; __file__ = "setup.py"\n'
        'exec(open("setup.py").read())\n'
        'assert "torch" not in sys.modules\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    version = re.search("'(.+)'", (ROOT / 'kd_dense' / 'version.py').read_text()).group(1)
    assert result.stdout.strip() == version


def test_the_citation_names_this_version():
    version = re.search("'(.+)'", (ROOT / 'kd_dense' / 'version.py').read_text()).group(1)
    assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()


def test_make_help_names_every_target():
    help_text = subprocess.check_output(
        ['make', '--no-print-directory', 'help'], cwd=ROOT, text=True
    )
    makefile = (ROOT / 'Makefile').read_text()
    targets = re.search(r'^\.PHONY: (.+)$', makefile, re.MULTILINE).group(1).split()
    lines = help_text.splitlines()
    assert len(lines) <= 12
    assert [line.split()[1] for line in lines] == targets


def test_ci_runs_make_test():
    script = ROOT / '.ci' / 'run'
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == 'exec make test'


def test_merged_files_include_each_file_once(project):
    ops = project / 'source' / 'mmcv' / 'ops' / 'csrc' / 'pytorch'
    apart = {'a_pybind', 'cpu/psamask', 'cpu/roi_align'}
    others = {'nms', 'carafe', 'focal_loss', 'cpu/nms', 'cpu/deform_conv'}
    (ops / 'cpu').mkdir(parents=True)
    for name in others | apart - {'a_pybind'} | {'pybind'}:
        (ops / f'{name}.cpp').write_text('')
    subprocess.check_call(
        ['bash', '-c', 'source tools/install.sh; merge_files source'], cwd=project
    )
    compiled = {str(p.relative_to(ops).with_suffix('')) for p in ops.glob('*.cpp')}
    compiled |= {f'cpu/{p.stem}' for p in ops.glob('cpu/*.cpp')}
    merged = {f'{folder}merged_{i}' for folder in ('', 'cpu/') for i in (0, 1)}
    assert compiled == apart | merged
    included = []
    for unit in merged:
        folder = (ops / unit).parent
        for line in (ops / f'{unit}.cpp').read_text().splitlines():
            part = folder / line.removeprefix('#include "').removesuffix('"')
            assert part.exists()
            included.append(str((folder / part.stem).relative_to(ops)))
    assert sorted(included) == sorted(others)


def test_wheels_are_kept_for_each_torch_apart(project, tmp_path):
    def folder(**environment):
        ask = ['bash', '-c', 'source tools/install.sh; wheels_folder']
        return subprocess.check_output(
            ask, cwd=project, text=True, env={'PATH': os.environ['PATH'], **environment}
        ).strip()

    kept = folder(HOME=str(tmp_path))
    assert kept == f'{tmp_path}/.cache/kd_dense/mmcv-torch-{locked()["torch"]}'
    assert folder(XDG_CACHE_HOME=str(tmp_path / 'c')).startswith(f'{tmp_path}/c/kd_dense/')
    assert folder(HOME='/proc/nowhere') == f'{project}/.venv/tmp/wheels'


def test_compiled_operators_equal_torchvision():
    """The operators that detectors run, as our merged files compile them."""
    images = torch.rand(2, 8, 24, 32, generator=torch.Generator().manual_seed(0))
    corners = torch.rand(40, 2, 2, generator=torch.Generator().manual_seed(1)) * 24
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)
    scores = torch.rand(40, generator=torch.Generator().manual_seed(2))
    rois = torch.cat([(torch.arange(40) % 2)[:, None].float(), boxes], dim=1)
    torch.testing.assert_close(
        ops.roi_align(images, rois, (7, 7), 0.5, 2, 'avg', True),
        torchvision.ops.roi_align(images, rois, (7, 7), 0.5, 2, True),
    )
    kept = ops.nms(boxes, scores, 0.5)[1]
    assert kept.tolist() == torchvision.ops.nms(boxes, scores, 0.5).tolist()
    weight = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(3))
    offset = torch.randn(2, 18, 24, 32, generator=torch.Generator().manual_seed(4))
    mask = torch.rand(2, 9, 24, 32, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        ops.modulated_deform_conv2d(images, offset, mask, weight, None, 1, 1, 1, 1, 1),
        torchvision.ops.deform_conv2d(images, offset, weight, padding=1, mask=mask),
        atol=1e-4,
        rtol=1e-4,
    )
