"""What kd_dense stands on: checked at import with one sentence, and not replaced by pip."""

import os
import subprocess
import sys
from pathlib import Path

import mmcv
import mmdet
import pytest

from kd_dense import stack
from kd_dense.errors import SetupError
from kd_dense.hosts import need_mmseg
from tests.test_setup import declared, locked

requirements = pytest.importorskip('packaging.requirements')
ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmdet': 'onedl-mmdetection'}


def test_what_is_installed_here_fits():
    stack.check_stack()
    assert stack.problems(stack.NEEDED_BY_SEGMENTATION) == []


def test_a_version_outside_the_range_is_named_with_the_range(monkeypatch):
    monkeypatch.setattr(mmdet, '__version__', '2.28.2')
    with pytest.raises(ImportError, match=r'mmdet is 2\.28\.2, needed is mmdet>=3\.3,<4') as error:
        stack.check_stack()
    assert "'kd_dense[stack]'" in str(error.value)


@pytest.mark.parametrize('version', ['2.1.0', '2.2.0', '2.3.6', '2.4.0rc1', '2.3.6+cu121'])
def test_a_version_in_the_range_is_taken(monkeypatch, version):
    monkeypatch.setattr(mmcv, '__version__', version)
    assert stack.problems({'mmcv': stack.NEEDED['mmcv']}) == []


def test_all_that_is_wrong_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmengine', None)  # an import of it fails
    monkeypatch.setattr(mmcv, '__version__', '1.7.2')
    found = stack.problems(stack.NEEDED)
    assert [phrase.split()[0] for phrase in found] == ['mmengine', 'mmcv']


def test_an_mmcv_without_compiled_operators_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)  # an import of it fails
    with pytest.raises(ImportError, match=r'compiled operators of mmcv.*MMCV_WITH_OPS=1'):
        stack.check_stack()


def test_segmentation_names_a_missing_mmseg(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)  # an import of it fails
    with pytest.raises(SetupError, match=r"mmseg.*'kd_dense\[seg\]'.*mmsegmentation ftfy"):
        need_mmseg()


def package(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir()
    (folder / name / '__init__.py').write_text(code)


@pytest.mark.parametrize(
    ('code', 'words'),
    [
        ("assert False, 'MMCV==2.2.0 is used'", 'mmdet cannot be imported (MMCV==2.2.0 is used)'),
        ('import no_such_package', "cannot be imported (No module named 'no_such_package')"),
    ],
)
def test_a_package_that_does_not_import_is_named_with_its_reason(
    tmp_path, monkeypatch, code, words
):
    package(tmp_path, 'mmdet', code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'mmdet')
    (found,) = stack.problems({'mmdet': stack.NEEDED['mmdet']})
    assert words in found and found.endswith('needed is mmdet>=3.3,<4')


def test_importing_kd_dense_ends_in_the_sentence_before_anything_else(tmp_path):
    """In a fresh interpreter, whose stack is all there but too old to be used for anything."""
    for name, version in dict(torch='2.1.2', torchvision='0.16.2', mmcv='1.7.2').items():
        package(tmp_path, name, f'__version__ = {version!r}')
    for name in ('mmengine', 'mmdet'):
        package(tmp_path, name, f"raise ModuleNotFoundError('none', name={name!r})")
    result = subprocess.run(
        [sys.executable, '-c', 'import kd_dense'],
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        'ImportError: kd_dense does not fit the packages installed here: mmengine is not '
        'installed, needed is mmengine>=0.10.7,<1; mmcv is 1.7.2, needed is mmcv>=2.1,<3; '
        'mmdet is not installed, needed is mmdet>=3.3,<4. '
    )


def test_installing_asks_for_nothing_of_the_stack():
    """No package of it by any of its names, and no bound that could force another numpy."""
    asked = [requirements.Requirement(text) for text in declared()['install']]
    stacked = {requirements.Requirement(text).name for text in declared()['seg']} - {'ftfy'}
    stacked |= {'mmcv', 'mmcv-lite', 'mmengine', 'mmdet', 'mmsegmentation', 'opencv-python'}
    assert not stacked & {requirement.name for requirement in asked}
    assert [str(requirement) for requirement in asked if requirement.specifier] == []


def test_the_maintained_stack_fits_what_is_needed():
    pins = locked()
    needed = stack.NEEDED | stack.NEEDED_BY_SEGMENTATION
    distributions = DISTRIBUTIONS | {'mmseg': 'onedl-mmsegmentation'}
    extra = {requirements.Requirement(text).name for text in declared()['seg']}
    for name, versions in needed.items():
        distribution = distributions.get(name, name)
        assert distribution in extra
        assert pins[distribution] in requirements.Requirement(f'x{versions}').specifier
