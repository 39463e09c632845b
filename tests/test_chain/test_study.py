"""A study of one's own data: from a folder to a report, by one command."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from kd_dense import commands
from kd_dense.data_forms import find_masks
from kd_dense.errors import SetupError
from kd_dense.own_data import use_data
from tests.helpers import segmentation
from tests.helpers.models import gfl
from tests.helpers.trainings import base_config, shapes_config, write_shapes


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, 'argv', ['kd-dense', *map(str, arguments)])
    commands.main()


@pytest.fixture
def configs(tmp_path, digits_root, monkeypatch) -> dict[str, Path]:
    """A student and a teacher, of other data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    whole = base_config('/nowhere', tmp_path)
    whole.pop('work_dir'), whole.pop('experiment_name'), whole.pop('custom_imports')
    for name, channels in (('small', 16), ('large', 32)):
        model = gfl(channels=channels, num_classes=3)
        Config(whole | dict(model=model)).dump(tmp_path / f'{name}.py')
    return {name: tmp_path / f'{name}.py' for name in ('small', 'large')}


def test_from_a_folder_to_the_report(configs, digits_root, monkeypatch, capfd):
    study = ('study', '--data', digits_root, '--student', 'small.py', '--teacher', 'large.py')
    options = ('--steps', 2, '--name', 'mine', '--side-by-side', 2)
    call(monkeypatch, *study, *options)
    said = capfd.readouterr().out
    assert 'work_dirs/studies/mine/report.html' in said, said
    folder = Path('work_dirs/studies/mine')
    assert (folder / 'distilled/iter_2_student.pth').is_file()
    config = Config.fromfile(folder / 'distilled.py')
    assert config.model.student.bbox_head.num_classes == 10
    assert Path(config.model.teacher.checkpoint) == folder / 'teacher/iter_2.pth'
    call(monkeypatch, *study, *options, '--no-report')  # all is there
    assert 'training ' not in capfd.readouterr().out
    call(monkeypatch, 'chain', 'work_dirs/studies/mine.py', '--table', 'text')
    assert 'the student, taught by the teacher' in capfd.readouterr().out

    with pytest.raises(SystemExit):
        call(monkeypatch, *study, '--name', 'mine', '--steps', 3)
    assert 'is another study of this name' in ' '.join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--data', 'nothing'), 'no folder nothing'),
        (('--student', 'nothing.py'), 'nothing.py'),
        (('--teacher', 'nothing.py'), 'nothing.py'),
        (('--recipe', 'lb'), "no recipe 'lb'"),
        (('--classes', 'cat'), "no class 'cat'"),
    ],
)
def test_what_is_wrong_is_told_at_once(arguments, words, configs, digits_root, monkeypatch, capfd):
    study = ['--data', digits_root, '--student', 'small.py', '--teacher', 'large.py', *arguments]
    with pytest.raises(SystemExit):
        call(monkeypatch, 'study', *study)
    assert words in ' '.join(capfd.readouterr().err.split())
    assert not list(Path().glob('work_dirs/studies/*'))


def test_a_training_takes_a_folder_of_data(configs, digits_root, monkeypatch):
    call(monkeypatch, 'train', 'small.py', '--data', digits_root, '--work-dir', 'out')
    written = Config.fromfile('out/small.py')
    assert written.train_dataloader.dataset.data_root == f'{digits_root}/'
    assert written.model.bbox_head.num_classes == 10
    assert Path('out/iter_4.pth').is_file()
    with pytest.raises(SystemExit):
        call(monkeypatch, 'train', 'small.py', '--classes', 'one')


# -- segmentors --------------------------------------------------------------------------------


@pytest.fixture
def shapes(tmp_path) -> Path:
    for split, count in (('train', 4), ('val', 2)):
        write_shapes(tmp_path / 'shapes', split, count, (64, 64))
    return tmp_path / 'shapes'


def test_images_and_label_pictures_are_found(shapes):
    data = find_masks(shapes)
    assert data.classes == ('class 0', 'class 1', 'class 2')
    (shapes / 'classes.txt').write_text('ground\ndisc\nsquare\nstar\n')
    data = find_masks(shapes)
    assert data.classes == ('ground', 'disc', 'square', 'star')
    assert data.train['data_prefix'] == dict(img_path='images/train', seg_map_path='labels/train')
    assert data.train['img_suffix'] == '.png' and len(data.train['metainfo']['palette']) == 4
    (shapes / 'labels').rename(shapes / 'masks')
    assert find_masks(shapes).val['data_prefix']['seg_map_path'] == 'masks/val'


def test_a_segmentor_trains_on_them(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = shapes_config(tmp_path / 'other', tmp_path)
    for key in ('work_dir', 'experiment_name'):
        whole.pop(key)
    whole['optim_wrapper'] = dict(optimizer=dict(type='AdamW', lr=0.01))
    student = segmentation.distiller({})['student']
    whole['train_dataloader']['dataset']['pipeline'][1]['reduce_zero_label'] = True
    # mmengine tells trainings of one second in one process apart by the name of their config
    Config(whole | dict(model=student)).dump('segmentor.py')
    call(monkeypatch, 'train', 'segmentor.py', '--data', shapes, '--work-dir', 'out')
    written = Config.fromfile('out/segmentor.py')
    assert written.model.decode_head.num_classes == 3
    assert 'reduce_zero_label' not in written.train_dataloader.dataset.pipeline[1]
    assert written.val_evaluator.type == 'IoUMetric'
    assert Path('out/iter_4.pth').is_file()


def spoil(shapes: Path, how: str) -> None:
    if how == 'label':
        label = np.full((64, 64), 7, np.uint8)
        cv2.imwrite(str(shapes / 'labels/train/0.png'), label)
        (shapes / 'classes.txt').write_text('a\nb\nc\n')
    elif how == 'missing':
        (shapes / 'labels/val/1.png').unlink()
    elif how == 'endings':
        (shapes / 'images/train/x.jpg').touch()
    elif how == 'none':
        for path in (shapes / 'images/val').iterdir():
            path.unlink()
    else:
        (shapes / 'labels').rename(shapes / 'truth')


@pytest.mark.parametrize(
    ('how', 'words'),
    [
        ('label', 'holds the label 7, and there are 3 names of classes: a, b, c'),
        ('missing', r'1 of 2 images of .*images/val have no label picture \(first: .*1.png\)'),
        ('endings', 'several endings: .jpg, .png'),
        ('none', 'images/val holds no images'),
        ('form', 'has not the form of data for segmentors. It is: images/train/'),
    ],
)
def test_data_that_does_not_fit_is_told(how, words, shapes):
    spoil(shapes, how)
    config = Config(dict(model=dict(decode_head=dict(num_classes=2)), train_dataloader={}))
    with pytest.raises(SetupError, match=words):
        use_data(config, shapes)
