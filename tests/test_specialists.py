"""Groups of classes that are confused, and the specialists' configs."""

from itertools import chain

import pytest
import torch
from mmengine.config import Config

from kd_dense.commands import specialists as command
from kd_dense.errors import SetupError
from kd_dense.hosts.configs import plain_student
from kd_dense.specialists import confused_within, groups_of, specialist_config
from tests.helpers.trainings import ROOT, state, train, training

CONFIG = 'configs/digits/gfl_r18-half_digits.py'


def counts(*pairs: tuple[int, int], classes: int = 5) -> torch.Tensor:
    found = 20 * torch.eye(classes, dtype=torch.int64)
    for true, seen in pairs:
        found[true, seen] += 10
    return found


def test_what_is_confused_is_in_one_group():
    found = counts((0, 3), (3, 0), (1, 4), (4, 2))
    assert groups_of(found, 2) == [[0, 3], [1, 2, 4]]
    assert groups_of(found, 5) == [[0], [1], [2], [3], [4]]
    assert confused_within(found, [[0, 3], [1, 2, 4]]) == 1
    assert confused_within(found, [[0, 3], [1, 4], [2]]) == pytest.approx(3 / 4)
    with pytest.raises(SetupError, match='confused no classes'):
        groups_of(counts(), 2)
    for wrong in (1, 6):
        with pytest.raises(SetupError, match='it takes 2 to 5'):
            groups_of(found, wrong)


def test_a_class_that_does_not_occur_is_in_a_group_of_its_own_or_any():
    found = counts((0, 1), (1, 0))
    found[4] = 0
    assert sorted(chain(*groups_of(found, 2))) == [0, 1, 2, 3, 4]


def test_the_config_of_a_specialist_trains_the_same_model_on_some_classes(tmp_path):
    text = specialist_config(str(ROOT / CONFIG), Config.fromfile(ROOT / CONFIG), ('one', 'seven'))
    (tmp_path / 'special.py').write_text(text)
    found, base = Config.fromfile(tmp_path / 'special.py'), Config.fromfile(ROOT / CONFIG)
    assert found.model.bbox_head.num_classes == 2
    assert found.model.backbone == base.model.backbone
    for part in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert tuple(found[part].dataset.metainfo.classes) == ('one', 'seven')
        assert found[part].dataset.ann_file == base[part].dataset.ann_file
    assert found.train_dataloader.dataset.filter_cfg.filter_empty_gt is False


def test_the_command_writes_configs_that_train(digits_root, tmp_path, monkeypatch, capsys):
    config = training(digits_root, tmp_path / 'run')
    config.train_cfg.update(max_iters=2, val_interval=2)
    train(config)
    plain_student(config).dump(tmp_path / 'config.py')
    arguments = [str(tmp_path / 'config.py'), str(tmp_path / 'run/iter_2_student.pth')]
    monkeypatch.setattr('sys.argv', ['kd-dense specialists', *arguments, '--groups', '3'])
    command.main()
    told = capsys.readouterr().out
    assert 'of the confusions' in told
    files = sorted((tmp_path / 'run/specialists').glob('*.py'))
    assert len(files) == 3
    names = [Config.fromfile(file).train_dataloader.dataset.metainfo.classes for file in files]
    assert sorted(chain(*names)) == sorted(
        state(tmp_path / 'run/iter_2_student.pth')['meta']['dataset_meta']['classes']
    )
