"""What the tools share."""

import argparse
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from kd_dense.errors import SetupError
from kd_dense.hosts.configs import check_data, plain_student
from kd_dense.launch import (
    command_line,
    draw_predictions,
    override,
    read_config,
    scale_learning_rate,
)
from tests.helpers.models import distiller


def arguments(config, **changes) -> argparse.Namespace:
    defaults = dict(work_dir=None, cfg_options=None, launcher='none', local_rank=0)
    return argparse.Namespace(config=str(config), **(defaults | changes))


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'pair.py'
    path.write_text("a = dict(b=1)\nmodel = dict(type='GFL')\n")
    return path


def test_overrides_and_work_dir_are_read(config_file):
    config = read_config(arguments(config_file, cfg_options={'a.b': 2}))
    assert config.a.b == 2
    assert config.work_dir == 'work_dirs/pair'
    assert read_config(arguments(config_file, work_dir='here')).work_dir == 'here'


def test_an_element_of_a_list_is_overridden_by_its_type():
    hooks = [dict(type='EMAHook'), dict(type='kd_dense.LossBalanceHook', steps=5)]
    config = Config(dict(custom_hooks=hooks, model=dict(a=[dict(type='A'), dict(type='A')])))
    override(config, {'custom_hooks.LossBalanceHook.steps': 9, 'custom_hooks.0.momentum': 0.1})
    assert config.custom_hooks[1] == dict(type='kd_dense.LossBalanceHook', steps=9)
    assert config.custom_hooks[0].momentum == 0.1
    with pytest.raises(SetupError, match=r"list with no 'Balance'; it has EMAHook, LossBalanceHo"):
        override(config, {'custom_hooks.Balance.steps': 9})
    with pytest.raises(SetupError, match=r"`model\.a` is a list with several 'A'"):
        override(config, {'model.a.A.b': 9})


def test_data_inside_wrappers_is_checked(tmp_path):
    leaf = dict(data_root=str(tmp_path), ann_file='gone.json')
    config = Config(
        dict(loader=dict(dataset=dict(dataset=dict(datasets=[leaf]))), data_help='Get it.')
    )
    with pytest.raises(FileNotFoundError, match=r'gone\.json \(for loader.*Get it\.'):
        check_data(config, ('loader',))
    (tmp_path / 'gone.json').write_text('{}')
    check_data(config, ('loader', 'no_such_loader'))


def test_the_students_config_stands_alone():
    hooks = [dict(type='kd_dense.StudentCheckpointHook'), dict(type='EMAHook')]
    imports = dict(imports=['kd_dense', 'kd_dense.hooks', 'mine'])
    config = Config(dict(model=distiller(), custom_hooks=hooks, custom_imports=imports))
    plain = plain_student(config)
    assert plain.model.type == 'GFL' and '_scope_' not in plain.model
    assert [hook['type'] for hook in plain.custom_hooks] == ['EMAHook']
    assert plain.custom_imports.imports == ['mine']
    assert config.model.type == 'kd_dense.Distiller', 'the given config stays as it is'
    assert plain_student(plain) is plain


@pytest.mark.parametrize('error', [SetupError('put it right'), FileNotFoundError('put it right')])
def test_what_a_user_can_put_right_is_a_sentence(capsys, error):
    with pytest.raises(SystemExit) as stopped, command_line():
        raise error
    assert stopped.value.code == 1
    assert capsys.readouterr().err == '\nerror: put it right\n'


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), command_line():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    'name',
    [
        'digits/structured_pspnet_r18-quarter_digits-seg',
        'cityscapes/cwd_pspnet_r18_cityscapes',
    ],
)
def test_segmentation_without_mmseg_is_one_sentence(name, monkeypatch):
    for module in [m for m in sys.modules if m.split('.')[0] == 'mmseg'] + ['mmseg']:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.chdir(Path(__file__).parents[1])
    with pytest.raises(SetupError, match=r"pip install 'kd_dense\[seg\]'"):
        read_config(arguments(f'configs/{name}.py'))


def test_scaling_the_learning_rate_asks_for_the_batch_size_it_was_made_for():
    config = Config(dict(auto_scale_lr=dict(base_batch_size=8)))
    scale_learning_rate(config)
    assert config.auto_scale_lr.enable is True
    with pytest.raises(SetupError, match='auto_scale_lr = dict'):
        scale_learning_rate(Config())


@pytest.mark.parametrize('kind', ['DetVisualizationHook', 'SegVisualizationHook'])
def test_predictions_are_drawn_into_a_folder_the_hosts_own_way(kind):
    config = Config(dict(default_hooks=dict(visualization=dict(type=kind)), visualizer=dict()))
    draw_predictions(config, 'there')
    hook = config.default_hooks.visualization
    assert hook.draw is True
    assert 'there' in (hook.get('test_out_dir'), config.visualizer.get('save_dir'))
    assert ('test_out_dir' in hook) == kind.startswith('Det')
