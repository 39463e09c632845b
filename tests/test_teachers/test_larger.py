"""A teacher that sees the student's images in another size, brought to the student's grid."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.detectors import GFL
from mmdet.registry import MODELS as HOSTS
from mmengine.optim import build_optim_wrapper
from torch import Tensor

from kd_dense import MODELS
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.measure import parts_of_step, training_step
from kd_dense.pair import check_pair
from kd_dense.teachers import Ensemble, FrozenTeacher
from kd_dense.views import Batch, View, view_class
from tests.helpers import pairs, segmentation, two_stage
from tests.helpers.models import distiller, gfl, gradients, losses, raw_batch
from tests.helpers.pairs import BOXES, SIZES, batch_for

DETECTORS = {**pairs.HOSTS, 'faster_rcnn': two_stage.faster_rcnn}


def built(name: str):
    return two_stage.build() if name == 'faster_rcnn' else pairs.build(DETECTORS[name]())


def pads(images: Tensor, sizes: list, scale: float = 2, divisor: int = 32) -> Tensor:
    """Each image resized by hand and padded by zeros, (N, 3, H', W')."""
    height, width = (-(-round(n * scale) // divisor) * divisor for n in images.shape[-2:])
    found = torch.zeros(len(images), 3, height, width)
    for into, image, (h, w) in zip(found, images, sizes, strict=True):
        new = F.interpolate(image[None, :, :h, :w], (round(h * scale), round(w * scale)),
                            mode='bilinear', align_corners=False)[0]  # fmt: skip
        into[:, : new.shape[1], : new.shape[2]] = new
    return found


def seen(model, batch: Batch, student: View | None = None, **options) -> tuple[View, View, View]:
    """What a teacher of twice the size shows, and what the model makes of both sizes by itself."""
    teacher = FrozenTeacher.of(model, **(dict(scale=2, fast=False) | options))
    teacher.load(model)
    kind = view_class(model)
    large = Batch(pads(batch.images, batch.image_sizes(), teacher.scale), [])
    plain = [kind(model, each, torch.no_grad, student) for each in (large, batch)]
    return teacher.view(batch, student), *plain


@pytest.mark.parametrize('name', DETECTORS)
def test_a_level_of_the_student_is_the_next_one_of_the_image_twice_as_large(name):
    model = built(name)
    batch = batch_for(model)
    view, large, own = seen(model, batch)
    pixels = 2 if name == 'fcos' else 1  # whose distances are in pixels
    for read in ('features', 'cls_logits', 'box_logits'):
        found, theirs, coarsest = (getattr(each, read) for each in (view, large, own))
        factor = pixels if read == 'box_logits' else 1
        for level in range(2):
            torch.testing.assert_close(found[level] * factor, theirs[level + 1])
        torch.testing.assert_close(found[2], coarsest[2])
        assert [each.shape for each in found] == [each.shape for each in coarsest]
    assert view.strides == own.strides and view.level_sizes == own.level_sizes
    torch.testing.assert_close(view.valid, own.valid)
    assert view.batch.image_sizes() == list(SIZES)


@pytest.mark.parametrize('name', pairs.HOSTS)
def test_boxes_are_those_of_the_image_twice_as_large_at_half_the_size(name):
    model = built(name)
    view, large, own = seen(model, batch_for(model))
    count = [h * w * view.num_anchors for h, w in view.level_sizes]
    first = large.level_sizes[0][0] * large.level_sizes[0][1] * view.num_anchors
    shared = sum(count[:2])
    theirs = large.decoded_boxes[:, first : first + shared]
    torch.testing.assert_close(view.decoded_boxes[:, :shared] * 2, theirs, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(view.decoded_boxes[:, shared:], own.decoded_boxes[:, shared:])


def test_images_are_resized_as_the_pipeline_would_have_and_samples_tell_so():
    model = built('gfl')
    batch = batch_for(model)
    view, large, _ = seen(model, batch)
    assert torch.equal(view.larger.batch.images, large.batch.images)
    assert view.larger.batch.image_sizes() == [(2 * h, 2 * w) for h, w in SIZES]
    told = view.larger.batch.samples[1].metainfo
    height, width = (2 * n for n in batch.images.shape[-2:])
    assert told['batch_input_shape'] == told['pad_shape'] == (height, width)
    assert told['scale_factor'] == (2.0, 2.0)
    assert told['padding_size'] == [0, width - 2 * SIZES[1][1], 0, height - 2 * SIZES[1][0]]
    assert 'gt_instances' not in view.larger.batch.samples[1]
    assert 'gt_instances' in batch.samples[1] and batch.image_sizes() == list(SIZES)


def test_proposals_of_the_student_are_scored_in_the_image_twice_as_large():
    model = two_stage.build()
    batch = batch_for(model)
    student = two_stage.noted(two_stage.build(seed=3), batch)
    view, large, own = seen(model, batch, student)
    scaled = student.proposals.clone()
    scaled[:, 1:] *= 2
    large.proposals = scaled
    torch.testing.assert_close(view.roi_cls_logits, large.roi_cls_logits)
    torch.testing.assert_close(view.roi_deltas, large.roi_deltas)
    assert (view.roi_cls_logits - own.roi_cls_logits).abs().max() > 0.01
    assert '_own' not in vars(view)  # the images in the student's size were not looked at
    other = two_stage.noted(two_stage.build(seed=4), batch)
    assert len(view.for_student(other).roi_cls_logits) == len(other.proposals)
    torch.testing.assert_close(view.roi_cls_logits, large.roi_cls_logits)


@pytest.mark.parametrize('scale', [2, 1.5, 3])
@pytest.mark.parametrize('sizes', [((64, 64), (40, 56)), ((75, 61),), ((40, 40),)])
def test_maps_of_a_segmentor_are_interpolated(scale, sizes):
    config = segmentation.segmentor()
    config['data_preprocessor']['size_divisor'] = 1
    model = segmentation.build(config).eval()
    data = model.data_preprocessor(segmentation.raw_batch(sizes), True)
    batch = Batch(data['inputs'], data['data_samples'])
    teacher = FrozenTeacher.of(model, fast=False, scale=scale)
    teacher.load(model)
    view = teacher.view(batch)
    own = view_class(model)(model, batch, torch.no_grad)
    large = Batch(pads(batch.images, batch.image_sizes(), scale, divisor=1), [])
    plain = view_class(model)(model, large, torch.no_grad)
    for found, theirs, same in (
        (view.seg_logits, plain.seg_logits, own.seg_logits),
        (view.head_features, plain.head_features, own.head_features),
        (view.aux_logits[0], plain.aux_logits[0], own.aux_logits[0]),
        (view.stage(0), plain.stage(0), own.stage(0)),
        (view.stage('backbone.1'), plain.stage('backbone.1'), own.stage('backbone.1')),
    ):
        assert found.shape == same.shape
        h, w = (
            min(n, int(m / scale)) for n, m in zip(found.shape[2:], theirs.shape[2:], strict=True)
        )
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
        # linearly between the four positions around the place in the larger map
        place = [((each + 0.5) * scale - 0.5).clamp(min=0) for each in (y, x)]
        low = [each.floor().long() for each in place]
        high = [(a + 1).clamp(max=n - 1) for a, n in zip(low, theirs.shape[2:], strict=True)]
        t = [a - b for a, b in zip(place, low, strict=True)]
        expected = sum(
            (t[0] if i else 1 - t[0]) * (t[1] if j else 1 - t[1])
            * theirs[:, :, (high if i else low)[0], (high if j else low)[1]]
            for i in (0, 1)
            for j in (0, 1)
        )  # fmt: skip
        torch.testing.assert_close(found[:, :, :h, :w], expected, rtol=1e-4, atol=1e-4)


def test_between_octaves_a_detector_shows_features_and_the_second_stage():
    model = two_stage.build()
    batch = batch_for(model)
    student = two_stage.noted(two_stage.build(seed=3), batch)
    view, large, own = seen(model, batch, student, scale=1.5)
    assert [f.shape for f in view.features] == [f.shape for f in own.features]
    inside = view.features[0][0, :, 2:6, 2:6]
    around = large.features[0][0, :, 3:9, 3:9]
    assert around.amin() <= inside.amin() and inside.amax() <= around.amax()
    scaled = student.proposals.clone()
    scaled[:, 1:] *= 1.5
    large.proposals = scaled
    torch.testing.assert_close(view.roi_cls_logits, large.roi_cls_logits)
    teacher = FrozenTeacher.of(model, scale=1.5)
    assert teacher.offers('roi_deltas') and not teacher.offers('cls_logits')
    soft = dict(soft=MODELS.build(dict(type='kd_dense.SoftTargets')))
    with pytest.raises(SetupError, match=r'at scale 1.5.* does not offer'):
        check_pair(model, teacher, soft)


def test_hosts_whose_heads_are_not_known_show_features():
    model = build_model(read_model_config(two_stage.hybrid_cascade(), 'teacher')).eval()
    batch = batch_for(model)
    view, large, own = seen(model, batch)
    assert [f.shape for f in view.features] == [f.shape for f in own.features]
    mean = F.avg_pool2d(large.features[0], 2)  # what lies in the middle of four positions
    torch.testing.assert_close(view.features[0], mean)


def test_what_only_fills_the_larger_images_up_is_left_out():
    model = built('gfl')
    batch = Batch(torch.rand(1, 3, 90, 120), [])  # as an augmentation of batches may leave it
    view, _, own = seen(model, batch)
    assert view.larger.batch.images.shape[-2:] == (192, 256)
    assert [f.shape for f in view.cls_logits] == [f.shape for f in own.cls_logits]


def test_of_four_times_the_size_the_level_two_octaves_up_is_shown():
    model = built('gfl')
    batch = batch_for(model)
    view, large, own = seen(model, batch, scale=4)
    torch.testing.assert_close(view.cls_logits[0], large.cls_logits[2])
    torch.testing.assert_close(view.cls_logits[1], own.cls_logits[1])


def test_the_layers_of_the_head_that_run_are_those_of_its_partners():
    for name in ('gfl', 'fcos'):
        model = built(name)
        with torch.no_grad():
            for number, scale in enumerate(model.bbox_head.scales, 1):
                scale.scale.fill_(number)
        batch = batch_for(model)
        view, large, own = seen(model, batch)
        maps = []
        for each in (large, own):
            with torch.no_grad(), each.recording():
                model.bbox_head(model.extract_feat(each.batch.images))
            maps.append(each.tower_maps('box', 1))
        levels = [*maps[0][1:], maps[1][-1]]
        torch.testing.assert_close(view.tail('box', levels, 1), view.flat_box_logits)


# -- in a training ---------------------------------------------------------------------------------


@HOSTS.register_module()
class TwoSizes(GFL):
    """A GFL that computes of its images what a teacher of scale 2 shows of them."""

    def extract_feat(self, batch_inputs):
        twice = F.interpolate(batch_inputs, scale_factor=2, mode='bilinear', align_corners=False)
        return (*super().extract_feat(twice)[1:], super().extract_feat(batch_inputs)[-1])


ALL = losses() | dict(
    bckd=dict(type='kd_dense.BinaryDistillation'),
    boxes=dict(type='kd_dense.BoxIoUDistillation'),
    general=dict(type='kd_dense.FeatureImitation', region='general'),
    pkd=dict(type='kd_dense.PearsonDistillation'),
    dist=dict(type='kd_dense.RelationDistillation', part='dense'),
    fgd=dict(type='kd_dense.FocalGlobal', adapter='none', relation=0),
)


def test_a_student_that_is_the_teacher_at_half_the_size_has_nothing_to_learn():
    sizes = ((128, 160), (128, 160))
    teacher = built('gfl')
    values = {}
    for kind in ('mmdet.TwoSizes', 'GFL'):
        student = dict(gfl(), type=kind)
        model = MODELS.build(dict(
            type='kd_dense.Distiller', losses=copy.deepcopy(ALL), student=student,
            teacher=FrozenTeacher.of(teacher, scale=2, fast=False)))  # fmt: skip
        model.student.load_state_dict(teacher.state_dict())
        model.eval()
        data = model.data_preprocessor(pairs.raw(sizes), True)
        _, values[kind] = model.both_losses(data['inputs'], data['data_samples'])
    assert set(values['GFL']) == set(ALL)
    for name in ALL:
        ours, others = (float(values[kind][name].detach()) for kind in values)
        assert abs(ours) < 1e-5, name
        assert others > 1e-3, name


def test_a_student_learns_of_it_and_comes_closer():
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='kd_dense.Distiller', student=gfl(), own_weight=0.0, losses=losses(ld=1, cls=10),
        teacher=FrozenTeacher.of(built('gfl'), scale=2)))  # fmt: skip
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='Adam', lr=3e-3)))
    data = pairs.raw()
    logs = [model.train_step(copy.deepcopy(data), wrapper) for _ in range(25)]
    for name in ('loss_kd_ld', 'loss_kd_cls'):
        assert logs[-1][name].item() < 0.5 * logs[0][name].item(), name


CASES = {
    'one stage': (distiller, raw_batch),
    'two stages': (two_stage.distiller, raw_batch),
    'segmentor': (segmentation.distiller, segmentation.raw_batch),
}


@pytest.mark.parametrize('case', CASES)
def test_a_scale_of_1_changes_nothing_and_another_does(case):
    config, batch = CASES[case]
    found = []
    for changes in (dict(), dict(scale=1), dict(scale=1.0), dict(scale=2)):
        torch.manual_seed(0)
        made = config()
        made['teacher'].update(changes)
        model = MODELS.build(made)
        model.init_weights()
        model.train()
        logs = model(**model.data_preprocessor(batch(), True), mode='loss')
        model.parse_losses(logs)[0].backward()
        found.append((logs, gradients(model.student)))
    (logs, first), *same, (other, _) = found
    distilled = [name for name in logs if name.startswith('loss_kd_')]
    for others, each in same:
        assert all(torch.equal(logs[name], others[name]) for name in distilled)
        assert all(torch.equal(first[name], each[name]) for name in first)
    assert all(torch.isfinite(other[name]) for name in distilled)
    assert any(not torch.equal(logs[name], other[name]) for name in distilled)


@pytest.mark.parametrize('case', CASES)
def test_with_all_weights_0_it_is_not_asked(case):
    config, batch = CASES[case]
    found = []
    for scale in (1, 2):
        torch.manual_seed(0)
        made = config()
        made['teacher'].update(scale=scale)
        for loss in made['losses'].values():
            loss['weight'] = 0.0
        model = MODELS.build(made)
        model.init_weights()
        model.train()
        wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01)))
        torch.manual_seed(1)
        model.train_step(batch(), wrapper)
        found.append(model.student.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize('case', ['one stage', 'two stages'])
def test_images_without_objects(case):
    config, _ = CASES[case]
    made = config()
    made['teacher'].update(scale=2)
    model = MODELS.build(made)
    model.init_weights()
    model.train()
    data = model.data_preprocessor(pairs.raw(SIZES, ((), ())), True)
    total, logs = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert all(torch.isfinite(value) for value in logs.values())


@pytest.mark.parametrize('fast', [False, True])
def test_in_bfloat16(fast):
    model = built('gfl')
    batch = batch_for(model)
    exact, *_ = seen(model, batch)
    rough, *_ = seen(copy.deepcopy(model), batch, dtype='bfloat16', fast=fast)
    assert rough.cls_logits[0].dtype == torch.bfloat16
    error = (rough.flat_cls_logits - exact.flat_cls_logits).abs().mean()
    assert error < 0.05 * exact.flat_cls_logits.abs().mean()


def test_the_time_of_a_step_is_that_with_the_larger_images():
    made = distiller(losses=losses(ld=1))
    made['teacher'].update(scale=2)
    model = MODELS.build(made)
    model.init_weights()
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01)))
    sizes = []
    model.teacher.model.backbone.register_forward_hook(lambda *a: sizes.append(a[1][0].shape[-2:]))
    spent = parts_of_step(lambda: training_step(model, wrapper, raw_batch()), on_gpu=False)
    height, width = model.data_preprocessor(raw_batch(), True)['inputs'].shape[-2:]
    assert sizes == [(2 * height, 2 * width), (height, width)]  # in turn, both in this step
    inside = sum(value for name, value in spent.items() if name.startswith('teacher.'))
    assert inside > 0.05 * sum(spent.values())


# -- predictions, ensembles, refusals --------------------------------------------------------------


def test_it_predicts_of_the_larger_images_in_pixels_of_the_original():
    model = built('gfl')
    with torch.no_grad():
        model.bbox_head.gfl_cls.bias.fill_(0)
    predictor = FrozenTeacher.of(model, scale=2).predictor().eval()
    size = dict(img_shape=(96, 128), ori_shape=(48, 64), scale_factor=(2.0, 2.0))
    data = pairs.raw(((96, 128),), (BOXES[0],))
    data['data_samples'][0].set_metainfo(size)
    with torch.no_grad():
        (found,) = predictor.test_step(copy.deepcopy(data))
        ready = model.data_preprocessor(copy.deepcopy(data), False)
        sample = ready['data_samples'][0]
        sample.set_metainfo(dict(img_shape=(192, 256), scale_factor=(4.0, 4.0)))
        images = pads(ready['inputs'], [(96, 128)])
        (expected,) = model.predict(images, [sample])
    assert len(found.pred_instances) > 0 and found.img_shape == (96, 128)
    torch.testing.assert_close(found.pred_instances.bboxes, expected.pred_instances.bboxes)
    assert found.pred_instances.bboxes[:, 2].max() <= 64
    assert len(found.gt_instances) == 3


def test_a_segmentor_predicts_in_the_size_of_the_original():
    model = segmentation.build(segmentation.segmentor()).eval()
    predictor = FrozenTeacher.of(model, scale=1.5).predictor().eval()
    with torch.no_grad():
        found = predictor.test_step(segmentation.raw_batch(((40, 56),)))
    assert found[0].pred_sem_seg.shape == (40, 56)


def test_an_ensemble_may_have_members_of_both_sizes():
    model = built('gfl')
    batch = batch_for(model)
    kinds = {n: FrozenTeacher.of(model, fast=False, scale=s) for n, s in (('a', 1), ('b', 2))}
    ensemble = Ensemble(kinds)
    ensemble.load(model)
    view = ensemble.view(batch)
    means = [kinds[name].view(batch).cls_logits[0].sigmoid() for name in kinds]
    torch.testing.assert_close(view.cls_logits[0].sigmoid(), (means[0] + means[1]) / 2)
    with pytest.raises(SetupError, match=r'predicts of images of one size, and members\.b has'):
        ensemble.predictor()


@pytest.mark.parametrize('scale', [0, -1, 0.5, float('nan'), float('inf'), True, '2', None])
def test_what_is_no_scale_is_refused(scale):
    made = distiller()
    made['teacher'].update(scale=scale)
    with pytest.raises(SetupError, match=r'teacher\.scale is .* it is a number from 1 on'):
        MODELS.build(made)


@pytest.mark.parametrize(
    'teacher',
    [
        dict(type='kd_dense.EMATeacher', scale=2),
        dict(type='kd_dense.Gate', of=('student', 'b'), at='backbone.2', scale=2),
    ],
)
def test_teachers_that_see_what_the_student_sees_have_none(teacher):
    with pytest.raises(SetupError, match=r'found .*`scale`'):
        MODELS.build(distiller(teacher=teacher))
