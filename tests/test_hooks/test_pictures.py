"""Pictures: written where they should be, of the right things, without touching the training."""

import json

import cv2
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmdet.datasets import CocoDataset
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import DefaultScope
from mmengine.runner import get_priority
from pycocotools import mask as rle

from kd_dense.datasets import CLASSES
from kd_dense.errors import SetupError
from kd_dense.hooks import DistillationPictureHook
from kd_dense.hosts import build_model, read_model_config
from kd_dense.pictures import Classes, Gallery, Objects, draw_image, predict
from kd_dense.pictures.draw import LABEL_FONT, class_colour, free_place, text_size
from kd_dense.pictures.focus import look
from kd_dense.pictures.gallery import choose
from kd_dense.pictures.samples import annotated_objects, overlay, run_lengths
from kd_dense.teachers import FrozenTeacher, Teacher, teacher_from
from tests.helpers import two_stage
from tests.helpers.models import gfl

HOOK = dict(type='kd_dense.DistillationPictureHook', num_images=2)
NO_SAVING = dict(checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False))


def columns_of(path) -> float:
    """How many panels of 320 pixels lie side by side on a sheet."""
    return (cv2.imread(str(path)).shape[1] - 24 + 8) / 328


def test_one_sheet_for_each_validation_and_the_training_stays_the_same(training, tmp_path):
    weights = []
    for hooks in ([], [HOOK]):
        runner = training(validate=True, custom_hooks=hooks, default_hooks=NO_SAVING)
        runner.train()
        weights.append(runner.model.state_dict() | {'random': torch.get_rng_state()})
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
    folder = tmp_path / 'work' / 'pictures'
    assert sorted(p.name for p in folder.iterdir()) == ['val_iter_2.png', 'val_iter_4.png']
    assert columns_of(folder / 'val_iter_4.png') == 5
    (log, *_) = sorted((tmp_path / 'work').glob('*/*.log'), reverse=True)
    assert f'Pictures of the distillation: {folder / "val_iter_4.png"}' in log.read_text()


def test_an_interval_is_kept_and_epochs_are_named(training, tmp_path):
    training(
        validate=True,
        custom_hooks=[HOOK | dict(interval=2)],
        default_hooks=NO_SAVING,
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
        train_dataloader=dict(
            training().cfg.train_dataloader, sampler=dict(type='DefaultSampler', shuffle=True)
        ),
    ).train()
    assert [p.name for p in (tmp_path / 'work/pictures').iterdir()] == ['val_epoch_2.png']


def test_without_validation_the_training_images_are_drawn_at_the_end(training, tmp_path):
    training(custom_hooks=[HOOK], default_hooks=NO_SAVING).train()
    assert [p.name for p in (tmp_path / 'work/pictures').iterdir()] == ['train_iter_4.png']


def test_a_student_trained_alone_stands_in_the_third_column(training, tmp_path):
    torch.manual_seed(1)
    alone = build_model(read_model_config(gfl(num_classes=10), 'student'))
    torch.save({'state_dict': alone.state_dict()}, tmp_path / 'alone.pth')
    hook = DistillationPictureHook(num_images=1, score_thr=0, alone=tmp_path / 'alone.pth')
    runner = training(validate=True, hooks=[hook], default_hooks=NO_SAVING)
    runner.train()
    assert hook._before.title == 'student alone'
    assert hook._before.subtitle.startswith('GFL, ResNet-18, 0.')
    expected = predict(alone, hook._gallery.images[0].packed()).above(0)
    assert len(expected.scores)
    np.testing.assert_allclose(hook._before.overlays[0][0].boxes, expected.boxes)


def test_a_checkpoint_that_does_not_fit_is_refused_before_training(training, tmp_path):
    other = build_model(read_model_config(gfl(channels=32), 'student'))
    torch.save({'state_dict': other.state_dict()}, tmp_path / 'other.pth')
    runner = training(hooks=[DistillationPictureHook(alone=tmp_path / 'other.pth')])
    with pytest.raises(SetupError, match='does not fit the student alone'):
        runner.train()


def test_drawing_now_needs_no_training_and_loads_the_teacher(training):
    runner = training(validate=True)
    assert not runner.model.teacher.loaded
    runner.model.train()
    modes = [module.training for module in runner.model.modules()]
    path = DistillationPictureHook(num_images=9).draw_now(runner)  # more than there are
    assert runner.model.teacher.loaded
    assert [module.training for module in runner.model.modules()] == modes
    assert path.name == 'val_iter_0.png'
    assert columns_of(path) == 4  # no student before


def test_a_teacher_in_half_precision_is_drawn(training):
    teacher = dict(config=gfl(num_classes=10), untrained=True, dtype='bfloat16')
    runner = training(validate=True, model=dict(teacher=teacher))
    assert DistillationPictureHook(num_images=1).draw_now(runner).is_file()
    assert runner.model.teacher.model.backbone.conv1.weight.dtype == torch.bfloat16


def test_each_teacher_that_predicts_has_a_column(training):
    class Silent(FrozenTeacher):
        def predictor(self):
            return Teacher.predictor(self)

    config = dict(config=gfl(num_classes=10), untrained=True)
    runner = training(validate=True)
    runner.model.teachers = {
        name: teacher_from(kind(**config), name)
        for name, kind in (('big', FrozenTeacher), ('silent', Silent), ('small', FrozenTeacher))
    }
    hook = DistillationPictureHook(num_images=1)
    assert columns_of(hook.draw_now(runner)) == 5  # truth, two teachers, student, regions
    assert [column.title for column in hook._teachers] == ['big', 'small']


def test_annotated_boxes_follow_the_resized_image(training, digits_root):
    dataset = training(validate=True).val_dataloader.dataset
    image = list(choose(dataset, 6, evaluation=True))[1]
    coco = json.loads((digits_root / 'annotations/val.json').read_text())
    boxes = np.array([a['bbox'] for a in coco['annotations'] if a['image_id'] == 2])
    boxes[:, 2:] += boxes[:, :2]
    assert image.name == 'val_000001.jpg'
    assert image.pixels.shape == (128, 128, 3)
    np.testing.assert_allclose(image.truth.boxes, boxes * 128 / 160, rtol=1e-5)
    original = cv2.imread(str(digits_root / 'VOC2007/JPEGImages/val_000001.jpg'))[..., ::-1]
    assert abs(image.pixels.mean((0, 1)) - original.mean((0, 1))).max() < 1  # red is red


def test_regions_are_those_that_the_head_defines(training):
    runner = training(validate=True)
    images = list(choose(runner.val_dataloader.dataset, 2, evaluation=True))
    dots = look(runner.model.student, images)
    assert set(dots) == {'main', 'vlr'}
    for region in dots.values():
        assert sum(len(d.centres) for d in region) > 0
        assert all((d.centres >= 0).all() and (d.centres <= 128).all() for d in region)
    retina = gfl(num_classes=10)
    del retina['bbox_head']['reg_max'], retina['bbox_head']['loss_dfl']
    retina['bbox_head'] |= dict(
        type='FCOSHead', strides=[8, 16, 32], regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
    )  # fmt: skip
    del retina['bbox_head']['anchor_generator'], retina['train_cfg']
    student = build_model(read_model_config(retina | dict(type='FCOS'), 'student'))
    assert set(look(student, images)) == {'main'}


def test_labels_do_not_cover_each_other():
    canvas = FigureCanvasAgg(Figure())
    wide, tall = text_size(canvas, 'seven 0.92', LABEL_FONT)
    taken = []
    for _ in range(20):
        place = free_place(canvas, 'seven 0.92', np.array([5, 5, 60, 60.0]), (320, 320), taken)
        if place is None:
            break
        assert place[2] - place[0] >= wide and place[3] - place[1] >= tall
        assert min(place) >= 0 and max(place) <= 320
        for x1, y1, x2, y2 in taken:
            assert place[0] >= x2 or place[2] <= x1 or place[1] >= y2 or place[3] <= y1
        taken.append(place)
    assert 2 < len(taken) < 20


def test_classes_have_colours_of_their_own():
    for count in (3, 20, 80):
        assert len({class_colour(i, count) for i in range(count)}) == count


def test_it_sees_the_averaged_weights():
    ema = MMENGINE_HOOKS.get('EMAHook')
    assert get_priority(DistillationPictureHook.priority) < get_priority(ema.priority)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(SetupError, match='num_images=0'):
        DistillationPictureHook(num_images=0)


# -- masks -------------------------------------------------------------------------------------


def square(size: int = 40) -> np.ndarray:
    """Two masks: the left upper quarter, and nothing."""
    masks = np.zeros((2, size, size), bool)
    masks[0, : size // 2, : size // 2] = True
    return masks


def test_masks_are_tinted_in_the_colours_of_their_boxes_at_any_resolution():
    two = np.array([[0.0, 0, 80, 80], [100, 100, 140, 140]])
    objects = Objects(two, np.array([1, 2]), np.array([0.9, 0.2]), masks=run_lengths(square()))
    grey = np.full((160, 160, 3), 128, np.uint8)
    classes = Classes(('a', 'b', 'c'), [(0, 0, 1.0), (1.0, 0, 0), (0, 1.0, 0)])
    picture = draw_image(grey, [overlay(objects, 0.3)], classes, width=320)
    inside, outside = picture[120, 120].astype(int), picture[240, 240].astype(int)
    np.testing.assert_allclose(inside, 0.55 * 128 + np.array([0.45 * 255, 0, 0]), atol=3)
    np.testing.assert_allclose(outside, 128, atol=1)  # not sure enough to be drawn


def test_annotated_masks_are_read_in_each_form_of_coco_and_only_where_wanted():
    polygon = [[0, 0, 20, 0, 20, 20, 0, 20]]
    (packed, _) = run_lengths(square())
    # run lengths go down the columns, from what is not drawn
    listed = dict(size=[40, 40], counts=[0, *[20, 20] * 19, 20, 20 + 20 * 40])
    forms = (polygon, dict(packed, counts=packed['counts'].decode()), listed)
    each = dict(bbox=[0, 0, 20, 20], bbox_label=1)
    info = dict(height=40, width=40, instances=[each | dict(mask=form) for form in forms])
    found = annotated_objects(info, masks=True)
    for mask in found.masks:
        assert np.array_equal(rle.decode(mask), square()[0])
    assert len(found[np.array([True, False, True])].masks) == 2
    assert annotated_objects(info).masks is None
    info['instances'].append(each)  # one without
    assert annotated_objects(info, masks=True).masks is None


def test_what_a_mask_rcnn_predicts_and_learns_from_has_masks(digits_root):
    model = two_stage.build(two_stage.mask_rcnn())
    torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs'),
    ]
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = CocoDataset(
            data_root=str(digits_root), ann_file='annotations/val.json', pipeline=pipeline,
            data_prefix=dict(img='VOC2007/JPEGImages/'), metainfo=dict(classes=CLASSES),
            test_mode=True,
        )  # fmt: skip
    gallery = Gallery(dataset, 1, score_thr=0.0)
    (image,) = gallery.images
    assert image.truth.masks.shape == image.truth.labels.shape
    other = next(iter(choose(dataset, 1, evaluation=False)))
    drawn = [[rle.decode(mask) for mask in each.truth.masks] for each in (image, other)]
    assert len(drawn[0]) and np.array_equal(*drawn)
    ((found,),) = gallery.predicted('student', model).overlays
    assert len(found.boxes) and found.masks.shape == found.labels.shape
    assert rle.decode(found.masks[0]).shape == image.pixels.shape[:2]
