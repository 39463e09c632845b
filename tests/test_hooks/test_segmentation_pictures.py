"""Pictures of segmentors: masks, scores, verdicts of the right things; the training untouched."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip

from kd_dense.hooks import DistillationPictureHook
from kd_dense.hosts import build_model, read_model_config
from kd_dense.pictures import Classes, Column, draw_sheet, predict
from kd_dense.pictures.draw import IGNORED
from kd_dense.pictures.focus import judge
from kd_dense.pictures.gallery import choose
from kd_dense.pictures.overlays import HeatMap, Mask, nearest
from kd_dense.pictures.samples import score
from kd_dense.views import Batch, SegmentationView
from tests.helpers.segmentation import segmentor

HOOK = dict(type='kd_dense.DistillationPictureHook', num_images=2)
NO_SAVING = dict(checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False))
PIXEL_ONLY = dict(losses=dict(pixel=dict(type='kd_dense.PixelWise')))


def panels(path) -> tuple[float, float]:
    """Columns of 320 pixels and rows of 240 pixels of a sheet with one line of key."""
    height, width = cv2.imread(str(path)).shape[:2]
    return (width - 24 + 8) / 328, (height - 24 - 40 - 22) / (240 + 18)


def test_one_sheet_for_each_validation_and_the_training_stays_the_same(segmenting, tmp_path):
    states = []
    for hooks in ([], [HOOK]):
        runner = segmenting(validate=True, custom_hooks=hooks, default_hooks=NO_SAVING)
        runner.train()
        optimizers = runner.optim_wrapper.state_dict()
        moments = {
            f'{side}.{index}.{key}': torch.as_tensor(value)
            for side, one in optimizers.items()
            for index, each in one['state'].items()
            for key, value in each.items()
        }
        states.append(runner.model.state_dict() | moments | {'random': torch.get_rng_state()})
    assert len(states[0]) == len(states[1])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    folder = tmp_path / 'work' / 'pictures'
    assert sorted(p.name for p in folder.iterdir()) == ['val_iter_2.png', 'val_iter_4.png']
    assert panels(folder / 'val_iter_4.png') == (6, 2)


def test_averaged_weights_are_drawn_and_the_training_stays_the_same(segmenting):
    states = []
    for hooks in ([], [HOOK]):
        ema = dict(type='EMAHook', momentum=0.5)
        runner = segmenting(validate=True, custom_hooks=[*hooks, ema], default_hooks=NO_SAVING)
        runner.train()
        states.append(runner.model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_without_a_game_there_is_no_verdict_and_without_validation_training_images(
    segmenting, tmp_path
):
    optimizer = dict(optimizer=dict(type='SGD', lr=0.01))
    segmenting(
        custom_hooks=[HOOK], default_hooks=NO_SAVING, model=PIXEL_ONLY, optim_wrapper=optimizer
    ).train()
    (path,) = (tmp_path / 'work' / 'pictures').iterdir()
    assert path.name == 'train_iter_4.png'
    assert cv2.imread(str(path)).shape[1] == 24 + 5 * 328 - 8


def test_a_student_trained_alone_stands_before_the_one_that_was_taught(segmenting, tmp_path):
    torch.manual_seed(1)
    alone = build_model(read_model_config(segmentor(), 'student'))
    torch.save({'state_dict': alone.state_dict()}, tmp_path / 'alone.pth')
    hook = DistillationPictureHook(num_images=1, alone=tmp_path / 'alone.pth')
    segmenting(validate=True, hooks=[hook], default_hooks=NO_SAVING).train()
    before = hook._before
    assert (before.title, before.subtitle[:23]) == ('student alone', 'PSPHead, ResNetV1c-18, ')
    expected = predict(alone, hook._gallery.images[0].packed())
    (mask,) = before.overlays[0]
    assert (mask.classes == expected).all()
    iou, right = score(expected, hook._gallery.images[0].truth)
    assert before.captions == [f'mIoU {100 * iou:.1f}, accuracy {100 * right:.1f}']


def test_a_teacher_in_half_precision_is_drawn(segmenting):
    teacher = dict(config=segmentor(width=16), untrained=True, dtype='bfloat16')
    runner = segmenting(validate=True, model=dict(teacher=teacher))
    path = DistillationPictureHook(num_images=9).draw_now(runner)  # more than there are
    assert panels(path) == (5, 4)
    assert runner.model.teacher.model.backbone.stem[0].weight.dtype == torch.bfloat16


def test_labels_stay_as_annotated_and_are_enlarged_for_the_losses_alone(segmenting, tmp_path):
    dataset = segmenting(validate=True).val_dataloader.dataset
    image = list(choose(dataset, 4, evaluation=True))[1]
    stored = cv2.imread(str(tmp_path / 'shapes/labels/val/1.png'), cv2.IMREAD_UNCHANGED)
    assert image.name == '1.png'
    assert image.pixels.shape == (72, 96, 3)
    assert (image.truth == np.where(stored == 255, IGNORED, stored.astype(int))).all()
    large = image.data['data_samples'].gt_sem_seg.data
    assert large.shape == (1, 72, 96) and large.dtype == torch.int64
    assert (nearest(stored, (72, 96)) == large[0].numpy()).all()
    original = cv2.imread(str(tmp_path / 'shapes/images/val/1.png'))[..., ::-1]
    assert abs(image.pixels.mean((0, 1)) - original.mean((0, 1))).max() < 1  # red is red


def test_predictions_are_those_that_evaluation_scores(segmenting):
    runner = segmenting(validate=True)
    student = runner.model.student.eval()
    images = choose(runner.val_dataloader.dataset, 4, evaluation=True)
    masks = [predict(student, image.packed()) for image in images]
    for index, batch in enumerate(runner.val_dataloader):
        with torch.no_grad():
            for i, sample in enumerate(student.test_step(batch)):
                found = sample.pred_sem_seg.data[0].numpy()
                assert (found == masks[2 * index + i]).all()


def test_a_flipped_training_image_gets_a_flipped_prediction(segmenting):
    runner = segmenting()
    dataset = runner.train_dataloader.dataset
    dataset.pipeline.transforms.insert(2, RandomFlip(prob=1.0))
    student = runner.model.student.eval()
    torch.nn.init.normal_(student.decode_head.conv_seg.weight)
    (image,) = choose(dataset, 1, evaluation=False)
    with torch.no_grad():
        logits = student(image.batch(student).images, mode='tensor')
    logits = torch.nn.functional.interpolate(logits, (64, 64), mode='bilinear')
    assert (predict(student, image.packed()) == logits.argmax(1)[0].numpy()).all()


def test_scores_are_the_mean_over_the_classes_of_either():
    label = np.array([[0, 0, 1], [1, IGNORED, 3]])
    mask = np.array([[0, 1, 1], [1, 2, 0]])
    # 0: 1 of 3, 1: 2 of 3, 3: none; 2 is predicted where nothing is annotated
    assert score(mask, label) == pytest.approx(((1 / 3 + 2 / 3 + 0) / 3, 3 / 5))
    assert score(mask, np.full_like(label, IGNORED)) == (1, 1)


def test_verdicts_are_on_what_the_discriminator_sees_in_training(segmenting):
    runner = segmenting(validate=True)
    model, game = runner.model, runner.model.losses['holistic']
    model.load_teacher()
    (image,) = choose(runner.val_dataloader.dataset, 1, evaluation=True)
    verdict = judge(model, game, image)
    data = image.packed()
    batch = Batch(*model.data_preprocessor(data, True).values())
    assert batch.images.shape[-2:] == (96, 96)
    student = SegmentationView(model.student, batch)
    with torch.no_grad():
        shown = game.show(student, model.teacher.view(batch, student))
        ours, theirs = (game.discriminator(x, shown.images) for x in shown[:2])
    assert verdict.student == pytest.approx(float(ours))
    assert verdict.teacher == pytest.approx(float(theirs))
    assert verdict.reasons.shape == (12, 12)
    assert verdict.reasons.sum() == pytest.approx(float(ours - theirs), rel=0.05)
    assert verdict.share == (0.75, 1)


def drawn(tmp_path, *overlays, classes=None) -> np.ndarray:
    """A grey image of 320 x 160 pixels with overlays, as RGB between 0 and 1."""
    image = np.full((160, 320, 3), 128, np.uint8)
    columns = [Column('title', '', [overlays])]
    draw_sheet(tmp_path / 'sheet.png', [image], columns, classes or Classes())
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))[..., ::-1] / 255
    return sheet[12 + 40 + 18 :][:160, 12:-12]


def test_masks_have_the_colours_of_the_palette_and_stripes_where_nothing_is_annotated(tmp_path):
    classes = Classes(('a', 'b'), ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    mask = np.repeat([[0, 1, IGNORED, IGNORED]], 2, axis=0)
    picture = drawn(tmp_path, Mask(mask), classes=classes)
    for left, colour in ((40, (1, 0, 0)), (120, (0, 0, 1))):
        expected = 0.65 * np.array(colour) + 0.35 * 128 / 255
        np.testing.assert_allclose(picture[80, left], expected, atol=0.01)
    assert set(np.unique(picture[20:140, 180:300].round(2))) == {0.15, 0.6}
    assert cv2.imread(str(tmp_path / 'sheet.png')).shape[0] == 24 + 40 + 18 + 160 + 22  # the key


def test_heat_is_grey_at_zero_red_below_and_blue_above(tmp_path):
    values = np.array([[-2.0, -2.0, 0.0, 0.0, 2.0, 2.0]])
    picture = drawn(tmp_path, HeatMap(values, limit=2.0))
    red, grey, blue = picture[80, 20], picture[80, 160], picture[80, 300]
    assert red[0] > red[2] + 0.3 and blue[2] > blue[0] + 0.3
    np.testing.assert_allclose(grey, 128 / 255, atol=0.01)


def test_padding_of_a_heat_map_is_cut_off(tmp_path):
    values = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    picture = drawn(tmp_path, HeatMap(values, limit=1.0, share=(0.25, 1.0)))
    assert (picture[..., 2] > picture[..., 0]).all()


def test_classes_without_names_and_colours_get_some():
    assert Classes().name(7) == '7'
    assert len({Classes(('a',) * 30).colour(i) for i in range(30)}) == 30


def test_hooks_do_without_mmseg():
    code = "import sys, kd_dense.hooks; assert 'mmseg' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)
