"""Composing a distillation: which recipe fits, and pairs that train through tools/distill.py."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.runner import Runner

from kd_dense import commands
from kd_dense.compose import (
    RECIPES,
    check_recipe,
    choose_recipe,
    compose,
    find_recipe,
    read_recipe,
    recipes,
    variant,
)
from kd_dense.data_forms import category_names, find_coco, find_voc
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_config_file, read_model_config
from kd_dense.own_data import set_num_classes, use_data
from kd_dense.views import view_class
from tests.helpers import segmentation
from tests.helpers.mask_transformers import mask2former
from tests.helpers.models import gfl
from tests.helpers.pairs import atss, build, fcos, retina
from tests.helpers.two_stage import build as two_stages
from tests.helpers.two_stage import cascade_rcnn, faster_rcnn, mask_rcnn

ROOT = Path(__file__).parents[1]


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
        'chen2017_masks',
    ),
    'Mask R-CNN, Swin': (
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco',
        'chen2017_masks',
    ),
    'Cascade R-CNN': (
        'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco', 'cascade_rcnn/cascade-rcnn_r101_fpn_1x_coco',
        'chen2017',
    ),
    'Cascade Mask R-CNN teaches Mask R-CNN': (
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
        'cascade_rcnn/cascade-mask-rcnn_r101_fpn_1x_coco', 'chen2017_masks',
    ),
    'RetinaNet teaches Faster R-CNN': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'retinanet/retinanet_r101_fpn_2x_coco',
        'pkd_two_stage',
    ),
    'Faster R-CNN teaches DETR': (
        'detr/detr_r50_8xb2-150e_coco', 'faster_rcnn/faster-rcnn_r101_fpn_2x_coco',
        'detr_matching',
    ),
    'PSPNet': (
        'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
        'pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024', 'cwd',
    ),
    'DeepLabV3+': (
        'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024',
        'deeplabv3plus/deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024', 'cwd',
    ),
    'SegFormer': (
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
        'segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512', 'cwd',
    ),
    'PSPNet, MobileNetV2': (
        'mobilenet_v2/mobilenet-v2-d8_pspnet_4xb2-80k_cityscapes-512x1024',
        'pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024', 'cwd',
    ),
}  # fmt: skip


@pytest.mark.parametrize('pair', PUBLIC)
def test_a_recipe_fits_each_pair_of_public_configs(pair):
    student, teacher, expected = PUBLIC[pair]
    package = 'mmseg' if expected == 'cwd' else 'mmdet'
    names = (f'{package}::{name}.py' for name in (student, teacher))
    config, choice = compose(*names, 'teacher.pth')
    assert choice.name == expected
    assert config.model.type == 'kd_dense.Distiller'
    assert config.model.losses == Config.fromfile(RECIPES / f'{expected}.py').losses
    assert config.model.teacher.checkpoint == 'teacher.pth'
    assert 'kd_dense' in config.custom_imports.imports


@pytest.mark.parametrize('recipe', ['ld', 'chen2017', 'structured'])
def test_what_does_not_work_on_detr_is_refused_by_name_with_what_does(recipe):
    names = ('mmdet::detr/detr_r50_8xb2-150e_coco.py', 'mmdet::detr/detr_r101_8xb2-500e_coco.py')
    reason = (
        r'Teacher \(DETRHead\) and student \(DETRHead\) do not fit:[\s\S]* losses on features ask '
        r'the least of a pair: hints \(FeatureImitation\) and PKD \(PearsonDistillation\)'
    )
    with pytest.raises(SetupError, match=reason):
        compose(*names, 'teacher.pth', recipe)
    for works in ('pkd', 'hint'):
        assert compose(*names, 'teacher.pth', works)[1].name == works


def test_a_recipe_has_the_settings_of_the_students_family():
    detectors = build(retina()), build(retina(), 1)
    two_stage = two_stages(faster_rcnn()), two_stages(faster_rcnn(), 1)
    segmentors = segmentation.pair()
    families = [view_class(pair[0]).family for pair in (detectors, two_stage, segmentors)]
    assert [variant('cwd', family) for family in families] == [
        'cwd_features', 'cwd_features', 'cwd',
    ]  # fmt: skip
    assert [variant('pkd', family) for family in families] == [
        'pkd', 'pkd_two_stage', 'pkd',
    ]  # fmt: skip


def test_why_a_recipe_does_not_fit_is_told():
    choice = choose_recipe(build(retina()), build(retina(), 1))
    assert choice.name == 'pkd' and list(choice.refused) == ['ld']
    assert 'predicts each box edge as a distribution' in choice.refused['ld']


def test_a_pair_that_shares_nothing_is_refused_with_all_reasons():
    with pytest.raises(SetupError, match=r'(?s)No recipe fits this pair.*ld: .*pkd: .*hint: '):
        choose_recipe(build(gfl()), build(gfl(num_classes=5), 1))


def test_a_teacher_of_other_classes_is_refused_with_what_allows_it():
    pair = build(gfl()), build(gfl(num_classes=5), 1)
    with pytest.raises(SetupError, match=r'allowed by `teacher\.same_classes=False` \(`--other-cl'):
        choose_recipe(*pair)
    assert choose_recipe(*pair, same_classes=False).name == 'pkd'
    with pytest.raises(SetupError, match='of a pair: hints') as refused:
        check_recipe(build(retina()), pair[1], Config.fromfile(RECIPES / 'ld.py').losses, False)
    assert '--other-classes' not in str(refused.value)


def whole(path: Path, model: dict, base: str = 'gfl_r18-quarter_digits') -> str:
    """A config of a whole training with another model: 2 steps of 2 images."""
    path.write_text(
        f"_base_ = ['{ROOT}/configs/digits/{base}.py']\n"
        f'model = dict(_delete_=True, **{model!r})\n'
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=9)\n"
        'train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n'
        'val_dataloader = dict(num_workers=0, persistent_workers=False)\n'
        'param_scheduler = []\n'
        "log_level = 'WARNING'\n"
    )
    return str(path)


def distill(*arguments: str) -> None:
    """Run `kd-dense distill` in this process."""
    before = sys.argv
    sys.argv = ['kd-dense', 'distill', *arguments]
    try:
        commands.main()
    finally:
        sys.argv = before


def ten(config: dict) -> dict:
    """A model of the digits' classes."""
    config = Config(dict(model=config)).model
    set_num_classes(config, 10)
    return config.to_dict()


def test_weights_of_classes_follow_their_number():
    config = Config(dict(model=mask2former(classes=3))).model
    assert set_num_classes(config, 5) == 1
    assert config.decode_head.loss_cls.class_weight == [1.0] * 5 + [0.1]


def seg(**choices) -> dict:
    return segmentation.segmentor(classes=11, **choices)


def deeplab() -> dict:
    """A small DeepLabV3+."""
    config = seg()
    head = {k: v for k, v in config['decode_head'].items() if k != 'pool_scales'}
    config['decode_head'] = head | dict(
        type='DepthwiseSeparableASPPHead', dilations=(1, 2), c1_in_channels=8, c1_channels=4
    )
    return config


def segformer() -> dict:
    """A small SegFormer."""
    config = seg(auxiliary=False)
    config['backbone'] = dict(
        type='MixVisionTransformer', embed_dims=4, num_heads=[1, 2, 4, 8], num_layers=[1, 1, 1, 1],
        patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1], mlp_ratio=2,
    )  # fmt: skip
    head = {k: v for k, v in config['decode_head'].items() if k != 'pool_scales'}
    config['decode_head'] = head | dict(
        type='SegformerHead', in_channels=[4, 8, 16, 32], in_index=[0, 1, 2, 3], channels=8
    )
    return config


def rtmdet() -> dict:
    """A small RTMDet."""
    config = gfl()
    norm = dict(type='BN')
    config.update(
        type='RTMDet',
        bbox_head=dict(
            type='RTMDetHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1,
            with_objectness=False, norm_cfg=norm, act_cfg=dict(type='SiLU'),
            anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
            bbox_coder=dict(type='DistancePointBBoxCoder'),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1,
            pos_weight=-1,
        ),
    )  # fmt: skip
    return config


def on_resnext(config: dict) -> dict:
    """The same detector on a backbone of another kind."""
    backbone = config['backbone'] | dict(type='ResNeXt', depth=50, groups=4, base_width=4)
    neck = config['neck'] | dict(in_channels=[32, 64, 128, 256])
    return config | dict(backbone=backbone, neck=neck)


SMALL = {
    'ld': (gfl(), gfl(channels=32)),
    'pkd of RetinaNet': (retina(), retina()),
    'pkd of ATSS': (atss(), atss()),
    'pkd of FCOS': (fcos(), fcos()),
    'chen2017': (faster_rcnn(), faster_rcnn(channels=32)),
    'chen2017 of Cascade R-CNN': (cascade_rcnn(), cascade_rcnn()),
    'pkd_two_stage': (faster_rcnn(), gfl(channels=32)),
    'pkd from two stages': (gfl(), faster_rcnn(channels=32)),
    'structured': (seg(), seg(width=16)),
    'structured from another stride': (seg(), seg(width=16, stride=16)),
    'hint': (gfl(), gfl(channels=32)),
    'cwd': (seg(), seg(width=16)),
    'cwd_features': (retina(), retina()),
    'cwd_features of two stages': (faster_rcnn(), faster_rcnn(channels=32)),
    'chen2017_masks of Mask R-CNN': (mask_rcnn(), mask_rcnn()),
    'pkd of RTMDet': (rtmdet(), rtmdet()),
    'structured of DeepLabV3+': (deeplab(), deeplab()),
    'structured of SegFormer': (segformer(), segformer()),
    'pkd from another backbone': (retina(), on_resnext(retina())),
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
    base = 'pspnet_r18-quarter_digits-seg' if segments else 'gfl_r18-quarter_digits'
    files = [
        whole(tmp_path / f'{side}.py', model, base)
        for side, model in (('student', student), ('teacher', teacher))
    ]
    torch.save(
        dict(state_dict=build_model(read_model_config(files[1], 'teacher')).state_dict()),
        tmp_path / 'teacher.pth',
    )
    options = ['custom_hooks.DistillationPictureHook.num_images=1']
    if recipe == 'structured':
        options.append('model.losses.holistic.width=(8,8,16,16)')
    if 'Mask R-CNN' in case:
        options.append('train_dataloader.dataset.pipeline.1.with_mask=True')
    out = tmp_path / 'out'
    chosen = dict(hint='hint', structured='structured', cwd_features='cwd').get(recipe, 'auto')
    distill(
        files[0], '--teacher', files[1], '--checkpoint', str(tmp_path / 'teacher.pth'),
        '--work-dir', str(out), '--recipe', chosen,
        '--cfg-options', f'experiment_name={case.replace(" ", "_")}', *options,
    )  # fmt: skip
    assert (out / 'iter_2.pth').exists() and (out / 'iter_2_student.pth').exists()
    assert [path.name for path in out.glob('*.py')] == [f'{recipe}_student.py']
    again = Config.fromfile(out / f'{recipe}_student.py')
    assert again.model.losses.keys() == Config.fromfile(RECIPES / f'{recipe}.py').losses.keys()


def test_every_shipped_recipe_has_losses_and_is_found_by_name():
    assert set(recipes()) >= {'ld', 'chen2017', 'cwd', 'cwd_features', 'structured', 'pkd', 'hint'}
    for name, path in recipes().items():
        assert find_recipe(name) == path and read_recipe(path).losses


def test_a_recipe_of_ones_own_is_named_by_its_path(digits_root, tmp_path):
    student = whole(tmp_path / 'student.py', ten(gfl()))
    recipe = tmp_path / 'gentle.py'
    recipe.write_text("losses = dict(mine=dict(type='kd_dense.FeatureImitation', weight=0.1))\n")
    config, choice = compose(student, student, 'x.pth', str(recipe))
    assert (choice.name, choice.path) == ('gentle', recipe)
    assert config.model.losses.mine.weight == 0.1
    assert config.custom_imports.imports == ['kd_dense', 'kd_dense.hooks']
    assert 'kd_dense.StudentCheckpointHook' in [hook.type for hook in config.custom_hooks]
    recipe.write_text('weight = 1\n')
    with pytest.raises(SetupError, match=r'gentle\.py is no recipe: it has no `losses`'):
        compose(student, student, 'x.pth', str(recipe))
    with pytest.raises(FileNotFoundError, match=r'There is no recipe .*nothing\.py'):
        compose(student, student, 'x.pth', str(tmp_path / 'nothing.py'))


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


def write_coco(folder: Path, names: list[str], masks: bool = False, split: str = '') -> Path:
    """A folder in the form of COCO with an object of each class in one image."""
    (folder / 'annotations').mkdir(parents=True, exist_ok=True)
    (folder / 'a.jpg').touch()
    content = dict(
        images=[dict(id=1, file_name='a.jpg', width=9, height=9)],
        annotations=[
            dict(id=i, image_id=1, category_id=i, bbox=[0, 0, 5, 5], area=25, iscrowd=0,
                 segmentation=[[0, 0, 5, 0, 5, 5]] if masks else [])
            for i in range(1, len(names) + 1)
        ],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, 1)],
    )  # fmt: skip
    for each in [split] if split else ['train', 'val']:
        (folder / 'annotations' / f'{each}.json').write_text(json.dumps(content))
    return folder


def test_classes_of_coco_have_the_order_by_which_mmdet_numbers_them(tmp_path):
    folder = write_coco(tmp_path, ['dog', 'cat', 'bird'])
    assert find_coco(folder).classes == ('dog', 'cat', 'bird')
    chosen = find_coco(folder, ['dog', 'bird'])
    assert chosen.classes == ('dog', 'bird')
    own = CocoDataset(**{k: v for k, v in chosen.train.items() if k != 'type'}, lazy_init=True)
    own.load_data_list()
    assert own.cat2label == {1: 0, 3: 1}
    with pytest.raises(SetupError, match=r"in the order 'dog', 'bird'.* 'bird', 'dog' were asked"):
        find_coco(folder, ['bird', 'dog'])
    write_coco(folder, ['cat', 'dog', 'bird'], split='val')
    with pytest.raises(SetupError, match=r'val\.json lists its categories in the order'):
        find_coco(folder)


def test_only_the_categories_of_large_annotations_are_read(tmp_path, digits_root):
    assert category_names(digits_root / 'annotations' / 'train.json') == find_coco(digits_root)[0]
    file = tmp_path / 'x.json'
    for text in ('{}', '{"categories": []}', '{"categories": ["cat"]}', '{"categories": 3}'):
        file.write_text(text)
        assert category_names(file) is None


def test_a_student_of_masks_needs_masks(digits_root, tmp_path):
    def student() -> Config:
        return read_config_file('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'student')

    use_data(config := student(), write_coco(tmp_path / 'masks', ['cat'], masks=True))
    assert config.val_evaluator.metric == ['bbox', 'segm']
    assert config.model.roi_head.mask_head.num_classes == 1
    with pytest.raises(SetupError, match=r'learns masks, and .*train\.json holds none'):
        use_data(student(), write_coco(tmp_path / 'boxes', ['cat']))
    with pytest.raises(SetupError, match='in the form of VOC, which holds boxes'):
        use_data(student(), digits_root / 'VOC2007')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('no', 'is not JSON'),
        ('[]', 'it has no images and no annotations and no categories'),
        ('{"images": [1], "categories": [1]}', 'it has no annotations'),
    ],
)
def test_annotations_that_are_none_are_refused(text, message, tmp_path):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations' / 'train.json').write_text(text)
    (tmp_path / 'annotations' / 'val.json').write_text(text)
    with pytest.raises(SetupError, match=message):
        find_coco(tmp_path)


def test_what_a_folder_of_voc_lacks_is_named(tmp_path):
    lists = tmp_path / 'ImageSets' / 'Main'
    for part in (lists, tmp_path / 'JPEGImages', tmp_path / 'Annotations'):
        part.mkdir(parents=True)
    with pytest.raises(SetupError, match=r'has no ImageSets/Main/train\.txt or '):
        find_voc(tmp_path)
    for split in ('train', 'val'):
        (lists / f'{split}.txt').touch()
    with pytest.raises(SetupError, match=r'train\.txt is empty'):
        find_voc(tmp_path)
    for split in ('train', 'val'):
        (lists / f'{split}.txt').write_text('a\n')
    with pytest.raises(SetupError, match=r'a\.jpg, which .*train\.txt asks for, is not there'):
        find_voc(tmp_path)
    (tmp_path / 'JPEGImages' / 'a.jpg').touch()
    with pytest.raises(SetupError, match=r'a\.xml, which .*train\.txt asks for, is not there'):
        find_voc(tmp_path)
    file = tmp_path / 'Annotations' / 'a.xml'
    file.write_text('<a><object><name>cat</name></object></a>')
    with pytest.raises(SetupError, match=r'a\.xml: boxes are not four numbers'):
        find_voc(tmp_path)
    corners = ''.join(f'<{k}>{i}</{k}>' for i, k in enumerate(('xmin', 'ymin', 'xmax', 'ymax')))
    box = f'<bndbox>{corners}</bndbox>'
    file.write_text(f'<a><object><name>cat</name>{box}</object></a>')
    assert find_voc(tmp_path).classes == ('cat',)


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
    loader = dict(dataset=dict(pipeline=[dict(type='LoadAnnotations', with_bbox=True)]))
    config = Config(dict(model=dict(bbox_head=dict(num_classes=3)), train_dataloader=loader))
    with pytest.raises(SetupError, match='has neither form of data'):
        use_data(config, tmp_path)
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        use_data(config, tmp_path / 'nothing')
    with pytest.raises(SetupError, match="has no class 'cat'; it has 'zero', 'one'"):
        use_data(config, digits_root, ['one', 'cat'])
    with pytest.raises(SetupError, match='has not the form of data for segmentors'):
        use_data(Config(dict(model=dict(decode_head=dict()))), digits_root)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(recipe='magic'), "There is no recipe 'magic'; choose auto, bckd, chen2017"),
        (dict(recipe='chen2017'), 'do not fit'),
        (dict(classes=['one']), '--classes names those of --data'),
    ],
)
def test_what_cannot_be_composed_is_refused(arguments, message, digits_root, tmp_path):
    student = whole(tmp_path / 'student.py', ten(gfl()))
    with pytest.raises(SetupError, match=message):
        compose(student, student, 'x.pth', **arguments)
