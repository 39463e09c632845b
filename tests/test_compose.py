"""Composing a distillation: which recipe fits, and pairs that train through tools/distill.py."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from kd_dense.compose import choose_recipe, compose, recipes
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.own_data import find_coco, find_voc, set_num_classes, use_data
from tests import segmentation
from tests.models import gfl
from tests.pairs import atss, build, fcos, retina
from tests.two_stage import cascade_rcnn, faster_rcnn

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / 'configs' / '_base_' / 'recipes'


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


# -- which recipe ------------------------------------------------------------------------------

PUBLIC = {
    'GFL': ('gfl/gfl_r50_fpn_1x_coco', 'gfl/gfl_r101_fpn_ms-2x_coco', 'ld'),
    'RetinaNet, RegNet': (
        'retinanet/retinanet_r18_fpn_1x_coco', 'regnet/retinanet_regnetx-3.2GF_fpn_1x_coco', 'pkd'
    ),
    'FCOS': (
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', 'fcos/fcos_r101-caffe_fpn_gn-head-1x_coco', 'pkd'
    ),
    'ATSS': ('atss/atss_r50_fpn_1x_coco', 'atss/atss_r101_fpn_1x_coco', 'pkd'),
    'RTMDet': ('rtmdet/rtmdet_tiny_8xb32-300e_coco', 'rtmdet/rtmdet_s_8xb32-300e_coco', 'pkd'),
    'Faster R-CNN': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'faster_rcnn/faster-rcnn_r101_fpn_2x_coco',
        'chen2017',
    ),
    'Mask R-CNN, ResNeXt': (
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 'mask_rcnn/mask-rcnn_x101-32x4d_fpn_2x_coco',
        'chen2017',
    ),
    'Mask R-CNN, Swin': (
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco', 'chen2017'
    ),
    'Cascade R-CNN': (
        'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco', 'cascade_rcnn/cascade-rcnn_r101_fpn_1x_coco',
        'pkd',
    ),
    'RetinaNet teaches Faster R-CNN': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'retinanet/retinanet_r101_fpn_2x_coco',
        'pkd_two_stage',
    ),
    'Faster R-CNN teaches DETR': (
        'detr/detr_r50_8xb2-150e_coco', 'faster_rcnn/faster-rcnn_r101_fpn_2x_coco', 'pkd'
    ),
    'PSPNet': (
        'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
        'pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024', 'structured',
    ),
    'DeepLabV3+': (
        'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024',
        'deeplabv3plus/deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024', 'structured',
    ),
    'SegFormer': (
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
        'segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512', 'structured',
    ),
    'PSPNet, MobileNetV2': (
        'mobilenet_v2/mobilenet-v2-d8_pspnet_4xb2-80k_cityscapes-512x1024',
        'pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024', 'structured',
    ),
}  # fmt: skip


@pytest.mark.parametrize('pair', PUBLIC)
def test_a_recipe_fits_each_pair_of_public_configs(pair):
    student, teacher, expected = PUBLIC[pair]
    package = 'mmseg' if expected == 'structured' else 'mmdet'
    names = (f'{package}::{name}.py' for name in (student, teacher))
    config, choice = compose(*names, 'teacher.pth', RECIPES)
    assert choice.name == expected
    assert config.model.type == 'kd_dense.Distiller'
    assert config.model.losses == Config.fromfile(RECIPES / f'{expected}.py').losses
    assert config.model.teacher.checkpoint == 'teacher.pth'
    assert 'kd_dense' in config.custom_imports.imports
    assert ('discriminator' in config.optim_wrapper) == (expected == 'structured')


def test_why_a_recipe_does_not_fit_is_told():
    choice = choose_recipe(build(retina()), build(retina(), 1), recipes(RECIPES))
    assert choice.name == 'pkd' and list(choice.refused) == ['ld']
    assert 'predicts each box edge as a distribution' in choice.refused['ld']


def test_a_pair_that_shares_nothing_is_refused_with_all_reasons():
    with pytest.raises(SetupError, match=r'(?s)No recipe fits this pair.*ld: .*pkd: .*hint: '):
        choose_recipe(build(gfl()), build(gfl(num_classes=5), 1), recipes(RECIPES))


def whole(path: Path, model: dict, base: str = 'digits_student') -> str:
    """A config of a whole training with another model: 2 steps of 2 images."""
    path.write_text(
        f"_base_ = ['{ROOT}/configs/{base}.py']\n"
        f'model = dict(_delete_=True, **{model!r})\n'
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=9)\n"
        'train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n'
        'val_dataloader = dict(num_workers=0, persistent_workers=False)\n'
        'param_scheduler = []\n'
        "log_level = 'WARNING'\n"
    )
    return str(path)


def distill(*arguments: str) -> None:
    """Run tools/distill.py in this process."""
    spec = importlib.util.spec_from_file_location('distill', ROOT / 'tools' / 'distill.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    before = sys.argv
    sys.argv = ['distill.py', *arguments]
    try:
        tool.main()
    finally:
        sys.argv = before


def ten(config: dict) -> dict:
    """A model of the digits' classes."""
    config = Config(dict(model=config)).model
    set_num_classes(config, 10)
    return config.to_dict()


def seg(**choices) -> dict:
    return segmentation.segmentor(classes=11, **choices)


SMALL = {
    'ld': (gfl(), gfl(channels=32)),
    'pkd of RetinaNet': (retina(), retina()),
    'pkd of ATSS': (atss(), atss()),
    'pkd of FCOS': (fcos(), fcos()),
    'chen2017': (faster_rcnn(), faster_rcnn(channels=32)),
    'pkd of Cascade R-CNN': (cascade_rcnn(), cascade_rcnn()),
    'pkd_two_stage': (faster_rcnn(), gfl(channels=32)),
    'pkd from two stages': (gfl(), faster_rcnn(channels=32)),
    'structured': (seg(), seg(width=16)),
    'structured from another stride': (seg(), seg(width=16, stride=16)),
    'hint': (gfl(), gfl(channels=32)),
    'cwd': (seg(), seg(width=16)),
}


@pytest.mark.parametrize('case', SMALL)
def test_pairs_of_many_families_train_two_steps_each(case, digits_root, tmp_path, monkeypatch):
    recipe = case.split()[0]
    student, teacher = SMALL[case]
    segments = 'decode_head' in student
    if not segments:
        student, teacher = ten(student), ten(teacher)
    monkeypatch.setenv('DIGITS_ROOT', str(digits_root))
    monkeypatch.setenv('DIGITS_SEG_ROOT', str(digits_root))
    base = 'digits_pspnet_student' if segments else 'digits_student'
    files = [
        whole(tmp_path / f'{side}.py', model, base)
        for side, model in (('student', student), ('teacher', teacher))
    ]
    torch.save(
        dict(state_dict=build_model(read_model_config(files[1], 'teacher')).state_dict()),
        tmp_path / 'teacher.pth',
    )
    out = tmp_path / 'out'
    chosen = recipe if recipe in ('hint', 'cwd') else 'auto'
    distill(
        files[0], '--teacher', files[1], '--checkpoint', str(tmp_path / 'teacher.pth'),
        '--work-dir', str(out), '--recipe', chosen,
        '--cfg-options', f'experiment_name={case.replace(" ", "_")}', 'custom_hooks.2.num_images=1',
        *(['model.losses.holistic.width=(8,8,16,16)'] if recipe == 'structured' else []),
    )  # fmt: skip
    assert (out / 'iter_2.pth').exists() and (out / 'iter_2_student.pth').exists()
    again = Config.fromfile(out / f'{recipe}_student.py')
    assert again.model.losses.keys() == Config.fromfile(RECIPES / f'{recipe}.py').losses.keys()


# -- own data ----------------------------------------------------------------------------------


def test_data_in_the_form_of_coco_is_found(digits_root):
    data = find_coco(digits_root)
    assert data.classes[:2] == ('zero', 'one') and len(data.classes) == 10
    assert data.train['ann_file'] == 'annotations/train.json'
    assert data.train['data_prefix'] == dict(img='VOC2007/JPEGImages/')
    assert data.val['test_mode'] is True
    assert data.evaluator['ann_file'] == str(digits_root / 'annotations' / 'val.json')


def test_data_in_the_form_of_voc_is_found(digits_root):
    data = find_voc(digits_root / 'VOC2007', ['nine', 'one'])
    assert data.classes == ('nine', 'one')
    assert set(find_voc(digits_root / 'VOC2007').classes) <= set(find_coco(digits_root).classes)
    assert data.val['ann_file'].startswith('ImageSets/Main/')


@pytest.mark.parametrize('form', ['coco', 'voc'])
def test_a_training_on_own_data_is_read_and_evaluated(form, digits_root, tmp_path):
    config = Config.fromfile(whole(tmp_path / 'student.py', ten(gfl())))
    use_data(config, digits_root if form == 'coco' else digits_root / 'VOC2007', ['two', 'three'])
    assert config.model.bbox_head.num_classes == 2
    config.work_dir, config.experiment_name = str(tmp_path), f'own_{form}'
    runner = Runner.from_cfg(config)
    assert runner.build_dataloader(config.train_dataloader).dataset.metainfo['classes'] == (
        'two', 'three'
    )  # fmt: skip
    metrics = runner.val()
    assert any('mAP' in name for name in metrics)


def test_data_of_no_form_other_classes_and_segmentors_are_refused(digits_root, tmp_path):
    config = Config(dict(model=dict(bbox_head=dict(num_classes=3))))
    with pytest.raises(SetupError, match='has neither form of data'):
        use_data(config, tmp_path)
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        use_data(config, tmp_path / 'nothing')
    with pytest.raises(SetupError, match="has no class 'cat'; it has 'zero', 'one'"):
        use_data(config, digits_root, ['one', 'cat'])
    with pytest.raises(SetupError, match='the student is a segmentor'):
        use_data(Config(dict(model=dict(decode_head=dict()))), digits_root)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(recipe='magic'), "There is no recipe 'magic'; choose auto, chen2017"),
        (dict(recipe='chen2017'), 'do not fit'),
        (dict(classes=['one']), '--classes names those of --data'),
    ],
)
def test_what_cannot_be_composed_is_refused(arguments, message, digits_root, tmp_path):
    student = whole(tmp_path / 'student.py', ten(gfl()))
    with pytest.raises(SetupError, match=message):
        compose(student, student, 'x.pth', RECIPES, **arguments)
