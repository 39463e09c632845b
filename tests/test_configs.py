"""Every shipped config builds, names a teacher that fits, and trains a step."""

from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from kd_dense import MODELS
from kd_dense.hosts import build_model, read_model_config
from kd_dense.hosts.configs import is_distiller, plain_student, teachers_of
from tests.helpers import segmentation

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs'
CONFIGS = sorted(
    str(path.relative_to(FOLDER))
    for path in FOLDER.rglob('*.py')
    if not {'_base_', 'chains'} & set(path.parts)
)


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    """Teachers are named by paths from the root of the repository."""
    monkeypatch.chdir(ROOT)


def read(name: str) -> Config:
    """A config with nothing to download: no pretrained backbone, an untrained teacher."""
    config = Config.fromfile(FOLDER / name)
    config.load_from = None  # a stage before
    if is_distiller(config):
        models = [config.model.student]
        for teacher in teachers_of(config.model).values():
            if 'weights' in teacher:
                teacher.pop('weights')
                teacher.untrained = True
            if 'checkpoint' not in teacher:
                continue
            teacher.config = read_model_config(teacher.config, 'teacher')
            teacher.pop('checkpoint')
            teacher.untrained = True
            models.append(teacher.config)
    else:
        models = [config.model]
    for model in models:
        model.backbone.init_cfg = None
        model.pop('pretrained', None)
        if model.data_preprocessor.get('size'):  # what segmentors pad to
            model.data_preprocessor.size = (64, 64)
        if 'num_queries' in model:  # more than a small picture has positions; and one layer is fast
            model.num_queries = 20
            model.encoder.num_layers = model.decoder.num_layers = 1
    return config


def know_classes(model: nn.Module, name: str) -> None:
    """Tell teachers of other classes theirs, as checkpoints do, and those of the training set."""
    shipped = Config.fromfile(FOLDER / name)
    for key, teacher in model.teachers.items():
        if teacher.maps_classes:
            theirs = Config.fromfile(shipped.model.teachers[key].config).val_dataloader
            teacher.classes = theirs.dataset.metainfo.classes
            teacher.know_classes(shipped.train_dataloader.dataset.metainfo.classes)


def batch_for(model: nn.Module) -> dict:
    """A batch of what the model is made for."""
    if hasattr(model, 'decode_head'):
        return segmentation.raw_batch()
    num_classes = getattr(model, 'roi_head', model).bbox_head.num_classes
    masks = getattr(model, 'with_mask', False)
    return demo_mm_inputs(
        1, [[3, 128, 128]], num_items=[2], num_classes=num_classes, with_mask=masks
    )


def test_there_are_configs():
    assert 'ld_r18.py' in CONFIGS  # which users call by this name
    groups = {Path(name).parts[0] for name in CONFIGS} - {'ld_r18.py'}
    assert groups == {'ade20k', 'aquarium', 'camvid', 'cityscapes', 'coco', 'digits', 'voc'}


def test_no_two_configs_write_to_one_work_dir():
    assert len({Path(name).stem for name in CONFIGS}) == len(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_readme_of_a_group_has_a_row_for_each_config(name):
    group, link = Path(name).parts if '/' in name else ('coco', f'../{name}')
    readme = (FOLDER / group / 'README.md').read_text()
    rows = [line for line in readme.splitlines() if f']({link})' in line]
    assert len(rows) == 1 and rows[0].startswith('|')
    assert f' configs/{name}' in readme, 'no command'


@pytest.mark.parametrize('name', CONFIGS)
def test_config_builds_and_steps(name):
    config = read(name)
    distills = is_distiller(config)
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        model = MODELS.build(config.model) if distills else build_model(config.model)
    if distills:
        model.load_teacher()
        know_classes(model, name)
    build_optim_wrapper(model, config.optim_wrapper)
    data = batch_for(model.student if distills else model)
    out = model.train()(**model.data_preprocessor(data, True), mode='loss')
    loss, logs = model.parse_losses(out)
    loss.backward()
    assert torch.isfinite(loss)
    losses = (config.model.get('losses') or {}) if distills else {}
    expected = {f'loss_kd_{key}' for key in losses}
    assert {key for key in logs if 'kd' in key} == expected


@pytest.mark.parametrize('name', CONFIGS)
def test_config_tells_what_to_run_and_expects_its_own_work_dir(name):
    text = (FOLDER / name).read_text()
    assert f'configs/{name}' in text.split('_base_')[0], 'the first lines hold the command'
    config = Config.fromfile(FOLDER / name)
    assert config.get('data_help')
    for found in teachers_of(config.model).values():
        checkpoint = str(found.get('checkpoint', '://'))  # of a finished one
        if '://' not in checkpoint:  # made by our own teacher config, in its default work dir
            teacher = Path(found.config)
            assert Path(checkpoint).parent == Path('work_dirs') / teacher.stem
            by_epoch = Config.fromfile(teacher).train_cfg.get('max_epochs')
            steps = Config.fromfile(teacher).train_cfg.get('max_iters')
            last = f'epoch_{by_epoch}' if by_epoch else f'iter_{steps}'
            assert Path(checkpoint).stem == last


def test_plain_student_drops_teacher_losses_and_hooks():
    plain = plain_student(Config.fromfile(FOLDER / 'ld_r18.py'))
    assert plain.model.type == 'GFL'
    assert plain.custom_hooks == []
    assert plain.test_dataloader.dataset.type == 'CocoDataset'


def test_weights_are_overridden_by_name():
    config = Config.fromfile(FOLDER / 'ld_r18.py')
    config.merge_from_dict({'model.losses.ld.weight': 0.5})
    config.model.teacher = dict(config=config.model.student, untrained=True)
    config.model.student.backbone.init_cfg = None
    assert MODELS.build(config.model).losses['ld'].weight == 0.5


def test_roots_come_from_the_environment(monkeypatch):
    for variable, name in (
        ('COCO_ROOT', 'ld_r18.py'),
        ('DIGITS_ROOT', 'digits/ld_gfl_r18-quarter_digits.py'),
    ):
        monkeypatch.setenv(variable, '/somewhere')
        config = Config.fromfile(FOLDER / name)
        assert config.train_dataloader.dataset.data_root == '/somewhere/'
        assert config.val_evaluator.ann_file.startswith('/somewhere/annotations/')


@pytest.mark.parametrize(
    ('variable', 'name', 'root'),
    [
        ('DIGITS_SEG_ROOT', 'digits/pspnet_r18-quarter_digits-seg.py', ''),
        ('CAMVID_ROOT', 'camvid/pspnet_r18-quarter_camvid.py', ''),
        ('CAMVID_ROOT', 'camvid/pspnet_r18_camvid.py', ''),
        ('CITYSCAPES_ROOT', 'cityscapes/pspnet_r18_cityscapes.py', ''),
        ('VOC_ROOT', 'voc/pspnet_r18_voc12.py', 'VOC2012/'),
        ('ADE_ROOT', 'ade20k/segformer_b0_ade20k.py', ''),
    ],
)
def test_roots_of_label_pictures_come_from_the_environment(monkeypatch, variable, name, root):
    monkeypatch.setenv(variable, '/somewhere')
    config = Config.fromfile(FOLDER / name)
    train = config.train_dataloader.dataset
    for dataset in (*train.get('datasets', [train]), config.val_dataloader.dataset):
        assert dataset.data_root == f'/somewhere/{root}'
    assert config.test_dataloader.dataset.data_root == f'/somewhere/{root}'
    assert config.val_evaluator.type == 'IoUMetric'


OMITTED = (
    ('digits/{}gfl_r18-quarter_digits-without-three.py', 'soft-ld_', 'DIGITS'),
    ('digits/{}pspnet_r18-quarter_digits-seg-without-three.py', 'soft_', 'DIGITS_SEG'),
)


@pytest.mark.parametrize(('name', 'method', 'variable'), OMITTED)
def test_a_class_is_left_out_of_training_alone(monkeypatch, name, method, variable):
    monkeypatch.setenv(f'{variable}_ROOT', '/all')
    monkeypatch.setenv(f'{variable}_WITHOUT_THREE_ROOT', '/others')
    for config in (Config.fromfile(FOLDER / name.format(each)) for each in ('', method)):
        assert config.train_dataloader.dataset.data_root == '/others/'
        for part in ('val', 'test'):
            assert config[f'{part}_dataloader'].dataset.data_root == '/all/'
            assert config[f'{part}_evaluator'].get('ann_file', '/all/').startswith('/all/')
        classes = config.train_dataloader.dataset.metainfo.classes
        assert classes == config.val_dataloader.dataset.metainfo.classes and 'three' in classes


@pytest.mark.parametrize(('name', 'method', 'variable'), OMITTED)
def test_two_steps_by_the_teacher_alone(name, method, variable):
    config = read(name.format(method))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
    model.init_weights()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    before = {key: value.clone() for key, value in model.student.named_parameters()}
    for _ in range(2):
        data = batch_for(model.student)
        data['data_samples'] = [
            type(sample)(metainfo=sample.metainfo) for sample in data['data_samples']
        ]
        logs = model.train().train_step(data, optimizer)
        assert torch.isfinite(logs['loss']) and logs['loss'] > 0
    trained = config.model.get('trains') or ('backbone', 'neck', 'bbox_head')
    changed = {key.split('.')[0] for key, value in model.student.named_parameters()
               if not torch.equal(value, before[key])}  # fmt: skip
    assert changed == set(trained)
