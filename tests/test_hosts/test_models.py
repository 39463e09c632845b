"""Hosts: models found by path, name or dict, and errors that say where was looked."""

import copy
import random
import subprocess

import numpy as np
import pytest
import torch
from mmdet.models.detectors import GFL
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, isolated_rng, read_model_config
from tests.helpers.models import distiller, gfl


def write(path, text: str) -> str:
    path.write_text(text)
    return str(path)


# -- reading configs ---------------------------------------------------------------------------


def test_a_model_config_is_taken_as_it_is_and_copied():
    source = gfl()
    before = copy.deepcopy(source)
    found = read_model_config(source, 'student')
    assert isinstance(found, ConfigDict) and found.to_dict() == before
    found.bbox_head.num_classes = 99
    found['backbone']['depth'] = 50
    assert source == before


@pytest.mark.parametrize('kind', [dict, Config])
def test_of_a_whole_config_the_model_is_taken(kind):
    whole = dict(model=gfl(), default_scope='mmdet', optim_wrapper=dict(type='OptimWrapper'))
    found = read_model_config(whole if kind is dict else Config(whole)._cfg_dict, 'teacher')
    assert found.to_dict() == gfl()


def test_a_file_is_read_by_its_path(tmp_path):
    path = write(tmp_path / 'teacher.py', f"default_scope = 'mmdet'\nmodel = {gfl()}")
    assert read_model_config(path, 'teacher').to_dict() == gfl()
    assert read_model_config(tmp_path / 'teacher.py', 'teacher').to_dict() == gfl()


def test_the_scope_is_that_of_the_config(tmp_path):
    model = gfl()
    del model['_scope_']
    for line, expected in (("default_scope = 'mmseg'\n", 'mmseg'), ('', 'mmdet')):
        path = write(tmp_path / f'{expected}.py', f'{line}model = {model}')
        assert read_model_config(path, 'teacher')['_scope_'] == expected


def test_a_preprocessor_beside_the_model_is_taken_along(tmp_path):
    model = gfl()
    beside = model.pop('data_preprocessor')
    found = read_model_config(dict(model=model, data_preprocessor=beside), 'teacher')
    assert found.data_preprocessor.to_dict() == beside
    other = dict(type='DetDataPreprocessor')  # the model's own comes first
    found = read_model_config(dict(model=gfl(), data_preprocessor=other), 'teacher')
    assert found.data_preprocessor.to_dict() == gfl()['data_preprocessor']


@pytest.mark.parametrize('whole', [True, False])
def test_of_a_distiller_the_student_is_taken(whole):
    config = distiller()
    source = dict(model=config, default_scope='mmdet') if whole else config
    assert read_model_config(source, 'teacher').to_dict() == gfl()


def test_a_student_gets_scope_and_preprocessor_of_its_distiller():
    student = gfl()
    beside = student.pop('data_preprocessor')
    del student['_scope_']
    whole = dict(model=distiller(student=student), data_preprocessor=beside)
    assert read_model_config(whole, 'teacher').to_dict() == gfl()
    own = dict(model=distiller(), data_preprocessor=dict(type='DetDataPreprocessor'))
    assert read_model_config(own, 'teacher').to_dict() == gfl()


def test_a_name_is_found_in_its_package():
    found = read_model_config('mmdet::gfl/gfl_r50_fpn_1x_coco.py', 'teacher')
    assert (found['type'], found['_scope_']) == ('GFL', 'mmdet')
    assert found.bbox_head.num_classes == 80


def test_a_missing_file_is_named_with_where_was_looked(tmp_path):
    message = r'config of the teacher was not found: no/such\.py \(looked from /.*mmdet::gfl/gfl_r1'
    with pytest.raises(FileNotFoundError, match=message):
        read_model_config('no/such.py', 'teacher')
    with pytest.raises(FileNotFoundError, match='config of the student was not found'):
        read_model_config(tmp_path, 'student')


@pytest.mark.parametrize(
    'name',
    [
        'mmdet::gfl/no_such_config.py',
        'mmdet::gfl',
        'mmdet::a::b/c.py',
        'mmrotate::a/b.py',
        'nobody::a/b.py',
        'numpy::a/b.py',
        '::a/b.py',
    ],
)
def test_a_missing_name_is_named_and_nothing_is_installed(name, monkeypatch):
    def install(*args, **_):
        raise OSError(f'ran {args}')

    monkeypatch.setattr(subprocess, 'check_call', install)
    monkeypatch.setattr('mmengine.hub.hub.install_package', lambda _: None)
    with pytest.raises(FileNotFoundError) as error:
        read_model_config(name, 'teacher')
    message = str(error.value)
    assert f'The config of the teacher was not found: {name} (' in message
    assert 'The part before `::` is the package (mmdet, mmseg)' in message


def test_a_package_that_is_not_there_is_not_installed(monkeypatch):
    asked = []
    monkeypatch.setattr('mmengine.hub.hub.install_package', asked.append)
    with pytest.raises(FileNotFoundError, match="no package 'mmrotate' here"):
        read_model_config('mmrotate::a/b.py', 'teacher')
    assert asked == []


def test_a_config_without_a_model_is_named(tmp_path):
    path = write(tmp_path / 'runtime.py', 'max_epochs = 3\nresume = False')
    message = r'teacher holds no `model`: found \[.*max_epochs.*\] in .*runtime\.py\. Name a model'
    with pytest.raises(SetupError, match=message):
        read_model_config(path, 'teacher')
    with pytest.raises(SetupError, match=r'student holds no `model`: found \[\] in the dict'):
        read_model_config({}, 'student')


# -- building ----------------------------------------------------------------------------------


def test_a_model_is_built_in_its_own_scope_and_its_config_left_alone():
    config = read_model_config(gfl(), 'student')
    before = copy.deepcopy(config)
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert isinstance(build_model(config), GFL)
        assert DefaultScope.get_current_instance().scope_name == 'mmseg'
    assert config == before


def test_without_a_scope_of_its_own_the_current_one_counts():
    config = gfl()
    del config['_scope_']
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert isinstance(build_model(read_model_config(config, 'student')), GFL)
    with DefaultScope.overwrite_default_scope('mmseg'), pytest.raises(KeyError, match='GFL'):
        build_model(read_model_config(config, 'student'))


# -- randomness --------------------------------------------------------------------------------


def draw() -> tuple:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


def seed() -> None:
    random.seed(0), np.random.seed(0), torch.manual_seed(0)


def test_inside_own_randomness_nothing_outside_moves():
    seed()
    expected = draw()
    seed()
    with isolated_rng():
        inside = draw()
    assert draw() == expected == inside


def test_the_random_state_is_restored_after_an_error():
    seed()
    expected = draw()
    seed()
    with pytest.raises(KeyError), isolated_rng():
        draw()
        raise KeyError
    assert draw() == expected


def test_own_randomness_may_have_a_seed_of_its_own():
    torch.manual_seed(5)
    expected = torch.rand(1)
    for outside in (0, 1):
        torch.manual_seed(outside)
        with isolated_rng(seed=5):
            assert torch.equal(torch.rand(1), expected)
