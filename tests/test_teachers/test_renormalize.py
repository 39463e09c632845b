"""Renormalising: the teacher sees what its own preprocessor would have made of the raw images."""

import copy

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from kd_dense.errors import SetupError
from kd_dense.teachers.renormalize import Renormalize
from kd_dense.views import Batch
from tests.helpers.pairs import raw

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])
GREY = dict(mean=[127.5], std=[64.0])
NONE: dict = {}
STATISTICS = {'imagenet': IMAGENET, 'caffe': CAFFE, 'grey': GREY, 'none': NONE}


def preprocessor(**changes) -> DetDataPreprocessor:
    return DetDataPreprocessor(**(dict(pad_size_divisor=32) | changes))


def own_way(processor: nn.Module) -> Batch:
    """The raw images as a preprocessor makes them."""
    data = processor(raw(), True)
    return Batch(data['inputs'], data['data_samples'])


def check(student: nn.Module, teacher: nn.Module) -> Tensor:
    images = Renormalize(student, teacher)(own_way(student))
    expected = own_way(teacher).images
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-4)
    return images


@pytest.mark.parametrize('swap_t', [False, True])
@pytest.mark.parametrize('swap_s', [False, True])
@pytest.mark.parametrize('name_t', STATISTICS)
@pytest.mark.parametrize('name_s', STATISTICS)
def test_images_become_what_the_teachers_own_preprocessor_makes(name_s, name_t, swap_s, swap_t):
    student = preprocessor(**STATISTICS[name_s], bgr_to_rgb=swap_s)
    teacher = preprocessor(**STATISTICS[name_t], bgr_to_rgb=swap_t)
    check(student, teacher)


@pytest.mark.parametrize(('pad_s', 'pad_t'), [(0, 114), (114, 0), (7, 7)])
def test_the_padding_has_the_teachers_value(pad_s, pad_t):
    student = preprocessor(**IMAGENET, pad_value=pad_s)
    teacher = preprocessor(**CAFFE, pad_value=pad_t, bgr_to_rgb=True)
    images = check(student, teacher)
    assert (images[1, :, 90:] == pad_t).all() and (images[1, :, :, 120:] == pad_t).all()
    assert not (images[1, :, :90, :120] == pad_t).all(dim=0).any()


def test_padding_alone_that_differs_is_changed_alone():
    student, teacher = preprocessor(**IMAGENET), preprocessor(**IMAGENET, pad_value=5)
    renormalize = Renormalize(student, teacher)
    assert not renormalize.identical
    check(student, teacher)


def test_rgb_to_bgr_is_the_same_swap():
    check(preprocessor(**IMAGENET, rgb_to_bgr=True), preprocessor(**CAFFE))
    renormalize = Renormalize(
        preprocessor(**IMAGENET, rgb_to_bgr=True), preprocessor(**IMAGENET, bgr_to_rgb=True)
    )
    assert renormalize.identical


@pytest.mark.parametrize('name', STATISTICS)
def test_where_both_agree_the_images_pass_untouched(name):
    processor = preprocessor(**STATISTICS[name], bgr_to_rgb=True)
    batch = own_way(processor)
    assert Renormalize(processor, copy.deepcopy(processor))(batch) is batch.images


def test_the_students_images_are_left_alone():
    student, teacher = preprocessor(**IMAGENET), preprocessor(**CAFFE, bgr_to_rgb=True)
    batch = own_way(student)
    before = batch.images.clone()
    Renormalize(student, teacher)(batch)
    assert torch.equal(batch.images, before)


def test_a_teacher_may_pad_less_than_the_student():
    student, teacher = preprocessor(**IMAGENET), preprocessor(**CAFFE, pad_size_divisor=1)
    images = Renormalize(student, teacher)(own_way(student))
    expected = own_way(teacher).images
    assert images.shape == (2, 3, 128, 160) and expected.shape == (2, 3, 128, 160)
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-4)


def test_half_precision_images_are_renormalised_in_float32():
    student, teacher = preprocessor(**IMAGENET), preprocessor(**CAFFE)
    batch = own_way(student)
    half = Batch(batch.images.half(), batch.samples)
    images = Renormalize(student, teacher)(half)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, own_way(teacher).images, rtol=0, atol=0.2)


def test_it_has_nothing_to_save():
    renormalize = Renormalize(preprocessor(**IMAGENET), preprocessor(**CAFFE))
    assert not renormalize.state_dict() and not list(renormalize.parameters())


def test_a_teacher_that_needs_more_padding_is_refused():
    with pytest.raises(
        SetupError, match=r'multiple of 32 pixels, the student pads to 1\. Set `model.stu'
    ):
        Renormalize(preprocessor(pad_size_divisor=1), preprocessor())
    with pytest.raises(SetupError, match='multiple of 64 pixels, the student pads to 32'):
        Renormalize(preprocessor(), preprocessor(pad_size_divisor=64))
    segmentor = pytest.importorskip('mmseg.models').SegDataPreProcessor(size=(64, 64))
    with pytest.raises(SetupError, match=r'`model\.student\.data_preprocessor\.size_divisor=32`'):
        Renormalize(segmentor, preprocessor())


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        (BaseDataPreprocessor(), preprocessor(), "student's data preprocessor is a BaseDataPrepro"),
        (preprocessor(), BaseDataPreprocessor(), "teacher's data preprocessor is a BaseDataPrepro"),
        (preprocessor(), nn.Identity(), "teacher's data preprocessor is a Identity.*DetDataPrepro"),
    ],
)
def test_a_preprocessor_that_tells_no_statistics_is_refused(student, teacher, message):
    with pytest.raises(SetupError, match=message):
        Renormalize(student, teacher)
