"""Every shipped config builds, names a teacher that fits, and trains a step."""

from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from kd_dense import MODELS
from kd_dense.hosts import build_model, read_model_config
from kd_dense.launch import is_distiller, plain_student

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.name for path in (ROOT / 'configs').glob('*.py'))
# plain students that no config of their own names
SEGMENTORS = [
    '_base_/pspnet_r18_camvid.py',
    '_base_/pspnet_r18_cityscapes.py',
    '_base_/pspnet_r18_voc12.py',
    '_base_/segformer_b0_ade20k.py',
]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    """Teachers are named by paths from the root of the repository."""
    monkeypatch.chdir(ROOT)


def read(name: str) -> Config:
    """A config with nothing to download: no pretrained backbone, an untrained teacher."""
    config = Config.fromfile(ROOT / 'configs' / name)
    if is_distiller(config):
        without_download(config.model.student)
        teacher = config.model.teacher
        teacher.config = read_model_config(teacher.config, 'teacher')
        without_download(teacher.config)
        teacher.pop('checkpoint')
        teacher.untrained = True
    else:
        without_download(config.model)
        config.model.setdefault('_scope_', config.default_scope)
    return config


def without_download(model):
    """No pretrained backbone, and no crop larger than the pictures below."""
    model.backbone.init_cfg = None
    if 'pretrained' in model:
        model.pretrained = None
    if 'size' in model.data_preprocessor:
        model.data_preprocessor.size = (128, 128)


def inputs_for(host) -> dict:
    """Two pictures with random labels: of pixels for a segmentor, else of boxes."""
    if hasattr(host, 'decode_head'):
        generator = torch.Generator().manual_seed(0)
        pictures = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, host.num_classes, (2, 1, 128, 128), generator=generator)
        labels[:, :, :9] = 255
        samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
        for sample in samples:
            sample.set_metainfo(dict(img_shape=(128, 128), ori_shape=(128, 128)))
        return dict(inputs=list(pictures), data_samples=samples)
    num_classes = getattr(host, 'roi_head', host).bbox_head.num_classes
    return demo_mm_inputs(1, [[3, 128, 128]], num_items=[2], num_classes=num_classes)


def test_there_are_configs():
    assert {'ld_r18.py', 'ld_r34.py', 'ld_r50.py', 'ld_r18_voc.py', 'self_ld_r18.py'} <= set(
        CONFIGS
    )


@pytest.mark.parametrize('name', CONFIGS + SEGMENTORS)
def test_config_builds_and_steps(name):
    config = read(name)
    assert config.data_help
    distills = is_distiller(config)
    model = MODELS.build(config.model) if distills else build_model(config.model)
    if distills:
        model.load_teacher()
    host = model.student if distills else model
    data = inputs_for(host)
    out = model.train()(**model.data_preprocessor(data, True), mode='loss')
    loss, logs = model.parse_losses(out)
    loss.backward()
    assert torch.isfinite(loss)
    expected = {f'loss_kd_{key}' for key in config.model.losses} if distills else set()
    assert {key for key in logs if 'kd' in key} == expected


@pytest.mark.parametrize('name', CONFIGS)
def test_config_tells_what_to_run_and_expects_its_own_work_dir(name):
    text = (ROOT / 'configs' / name).read_text()
    assert f'configs/{name}' in text.split('_base_')[0], 'the first lines hold the command'
    config = Config.fromfile(ROOT / 'configs' / name)
    assert config.get('data_help')
    if is_distiller(config):
        checkpoint = str(config.model.teacher.checkpoint)
        if '://' not in checkpoint:  # made by our own teacher config, in its default work dir
            teacher = Path(config.model.teacher.config)
            assert Path(checkpoint).parent == Path('work_dirs') / teacher.stem
            by_epoch = Config.fromfile(teacher).train_cfg.get('max_epochs')
            last = f'epoch_{by_epoch}' if by_epoch else f'iter_{Config.fromfile(teacher).max_iters}'
            assert Path(checkpoint).stem == last


def test_plain_student_drops_teacher_losses_and_hooks():
    plain = plain_student(Config.fromfile(ROOT / 'configs' / 'ld_r18.py'))
    assert plain.model.type == 'GFL'
    assert plain.custom_hooks == []
    assert plain.test_dataloader.dataset.type == 'CocoDataset'


def test_weights_are_overridden_by_name():
    config = Config.fromfile(ROOT / 'configs' / 'ld_r18.py')
    config.merge_from_dict({'model.losses.ld.weight': 0.5})
    config.model.teacher = dict(config=config.model.student, untrained=True)
    config.model.student.backbone.init_cfg = None
    assert MODELS.build(config.model).losses['ld'].weight == 0.5


def test_roots_come_from_the_environment(monkeypatch):
    for variable, name in (('COCO_ROOT', 'ld_r18.py'), ('DIGITS_ROOT', 'digits_ld.py')):
        monkeypatch.setenv(variable, '/somewhere')
        config = Config.fromfile(ROOT / 'configs' / name)
        assert config.train_dataloader.dataset.data_root == '/somewhere/'
        assert config.val_evaluator.ann_file.startswith('/somewhere/annotations/')


@pytest.mark.parametrize(
    ('variable', 'name', 'root'),
    [
        ('DIGITS_SEG_ROOT', 'digits_pspnet_student.py', ''),
        ('CAMVID_ROOT', 'camvid_pspnet_student.py', ''),
        ('CAMVID_ROOT', '_base_/pspnet_r18_camvid.py', ''),
        ('CITYSCAPES_ROOT', '_base_/pspnet_r18_cityscapes.py', ''),
        ('VOC_ROOT', '_base_/pspnet_r18_voc12.py', 'VOC2012/'),
        ('ADE_ROOT', '_base_/segformer_b0_ade20k.py', ''),
    ],
)
def test_roots_of_label_pictures_come_from_the_environment(monkeypatch, variable, name, root):
    monkeypatch.setenv(variable, '/somewhere')
    config = Config.fromfile(ROOT / 'configs' / name)
    train = config.train_dataloader.dataset
    for dataset in (*train.get('datasets', [train]), config.val_dataloader.dataset):
        assert dataset.data_root == f'/somewhere/{root}'
    assert config.test_dataloader.dataset.data_root == f'/somewhere/{root}'
    assert config.val_evaluator.type == 'IoUMetric'
