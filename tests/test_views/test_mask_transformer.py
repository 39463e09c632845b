"""Mask transformers as segmentors: what their queries add up to at each pixel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from torch import Tensor, nn

from kd_dense import MODELS, PixelWise, RelationDistillation
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.pair import unmet
from kd_dense.teachers import Ensemble, FrozenTeacher
from kd_dense.views import (
    Batch,
    FeatureView,
    MaskTransformerView,
    SegmentationView,
    host_info,
    semantic_logits,
    view_class,
)
from tests.helpers import segmentation
from tests.helpers.mask_transformers import mask2former, maskformer, panoptic
from tests.helpers.models import gradients
from tests.helpers.pairs import raw
from tests.helpers.two_stage import with_masks

HOSTS = dict(mask2former=mask2former, maskformer=maskformer)
EACH_HOST = pytest.mark.parametrize('host', HOSTS)


def build(config: dict, seed: int = 0) -> nn.Module:
    """A model whose queries say different things."""
    torch.manual_seed(seed)
    model = build_model(read_model_config(config, 'student'))
    head = view_class(model).head_of(model)
    if issubclass(view_class(model), MaskTransformerView):
        nn.init.normal_(head.cls_embed.weight)
    return model


def seen(model: nn.Module, sizes: tuple = ((64, 64), (64, 64))) -> MaskTransformerView:
    """A student, whose own loss has run."""
    data = model.data_preprocessor(segmentation.raw_batch(sizes), True)
    view = MaskTransformerView(model, Batch(data['inputs'], data['data_samples']))
    torch.manual_seed(0)
    with view.recording():
        model(view.batch.images, view.batch.samples, mode='loss')
    return view


def shares(classes: Tensor, masks: Tensor) -> Tensor:
    """Of one image, one pixel and query after the other."""
    (queries, kinds), (_, height, width) = classes.shape, masks.shape
    found = torch.zeros(kinds - 1, height, width)
    for y in range(height):
        for x in range(width):
            for q in range(queries):
                p = classes[q].exp() / classes[q].exp().sum()
                found[:, y, x] += p[:-1] / (1 + (-masks[q, y, x]).exp())
    return found / found.sum(dim=0)


def test_logits_are_those_of_the_shares_of_the_classes():
    classes, masks = torch.randn(2, 4, 4), 3 * torch.randn(2, 4, 2, 3)
    found = semantic_logits(classes, masks).softmax(dim=1)
    for image in range(2):
        torch.testing.assert_close(found[image], shares(classes[image], masks[image]))
    sure = torch.full((1, 2, 3), -100.0).bfloat16().requires_grad_()
    found = semantic_logits(sure, torch.full((1, 2, 2, 2), -100.0))
    found.sum().backward()
    assert found.isfinite().all() and sure.grad.isfinite().all() and found.dtype == torch.float32


@EACH_HOST
def test_what_is_noted_is_what_the_model_predicts(host):
    model = build(HOSTS[host]()).eval()
    assert view_class(model) is MaskTransformerView
    view = seen(model)
    metas = [sample.metainfo for sample in view.batch.samples]
    whole = model.encode_decode(view.batch.images, metas)
    classes, masks = view._decoded
    masks = F.interpolate(masks, whole.shape[-2:], mode='bilinear')
    torch.testing.assert_close(semantic_logits(classes, masks).exp(), whole)
    again = MaskTransformerView(model, view.batch, torch.no_grad)
    torch.testing.assert_close(again.seg_logits, view.seg_logits.detach())
    assert view.seg_logits.shape == (2, 3, 16, 16) and 'features' in vars(view)
    assert torch.isclose(
        view.task_loss(), sum(v for n, v in view.own_losses.items() if 'loss' in n)
    )
    info = host_info(model)
    assert (info.family, info.num_classes, info.activation) == ('segmentation', 3, 'softmax')


def test_it_learns_from_a_segmentor_of_any_kind_by_the_kl_of_each_valid_pixel():
    model = build(mask2former())
    view = seen(model, ((64, 64), (40, 56)))
    teacher = SegmentationView(
        segmentation.build(segmentation.segmentor()).eval(), view.batch, torch.no_grad
    )
    target = F.interpolate(teacher.seg_logits, (16, 16), mode='bilinear').softmax(dim=1)
    classes, masks = view._decoded
    own = torch.stack([shares(*each) for each in zip(classes, masks, strict=True)])
    valid = view.valid_at((16, 16))
    assert not valid[1, 10:].any()
    kl = (target * (target / own).log()).sum(dim=1)[valid].mean()
    torch.testing.assert_close(PixelWise()(view, teacher), kl, rtol=1e-4, atol=1e-5)
    (PixelWise()(view, teacher) + RelationDistillation()(view, teacher)).backward()
    assert gradients(model)['decode_head.cls_embed.weight'].any()
    assert not gradients(teacher.model)


@EACH_HOST
def test_it_teaches_a_segmentor_and_a_weight_of_zero_changes_nothing(host):
    raw_batch = segmentation.raw_batch()
    found = []
    for weight in (None, 0.0, 10.0):
        torch.manual_seed(0)
        if weight is None:
            model = build_model(read_model_config(segmentation.segmentor(), 'student'))
        else:
            loss = dict(pixel=dict(type='kd_dense.PixelWise', weight=weight))
            model = MODELS.build(segmentation.distiller(loss, teacher=HOSTS[host]()))
        model.init_weights()
        torch.manual_seed(1)
        data = model.train().data_preprocessor(raw_batch, True)
        total, logs = model.parse_losses(model(**data, mode='loss'))
        total.backward()
        found.append({n.removeprefix('student.'): g for n, g in gradients(model).items()})
    plain, off, on = found
    assert logs['loss_kd_pixel'] > 0 and all(torch.equal(plain[n], off[n]) for n in plain)
    assert any(not torch.equal(plain[n], on[n]) for n in plain)


def test_a_student_is_trained_as_it_would_be_without_us():
    found = []
    for distilled in (False, True):
        torch.manual_seed(0)
        config = mask2former()
        if distilled:
            loss = dict(pixel=dict(type='kd_dense.PixelWise', weight=0))
            config = segmentation.distiller(loss, student=config)
            model = MODELS.build(config)
        else:
            model = build_model(read_model_config(config, 'student'))
        model.init_weights()
        torch.manual_seed(1)
        data = model.train().data_preprocessor(segmentation.raw_batch(), True)
        model.parse_losses(model(**data, mode='loss'))[0].backward()
        found.append({n.removeprefix('student.'): g for n, g in gradients(model).items()})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(g, found[1][n]) for n, g in found[0].items())


def test_mmdets_own_for_things_and_stuff_is_a_segmentor_too():
    model = build(panoptic())
    data = raw(((64, 64),), (((10.0, 12.0, 40.0, 50.0),),))
    with_masks(Batch(torch.zeros(0), data['data_samples']))
    labels = torch.full((1, 64, 64), 2)
    labels[:, :8] = 255
    data['data_samples'][0].gt_sem_seg = PixelData(sem_seg=labels)
    data = model.data_preprocessor(data, True)
    view = view_class(model)(model, Batch(data['inputs'], data['data_samples']))
    with view.recording():
        model(view.batch.images, view.batch.samples, mode='loss')
    assert isinstance(view, MaskTransformerView)
    assert view.valid_pixels.sum() == 56 * 64
    teacher = segmentation.build(segmentation.segmentor()).eval()
    PixelWise()(view, SegmentationView(teacher, view.batch, torch.no_grad)).backward()
    assert gradients(model)['panoptic_head.cls_embed.weight'].any()


def test_one_for_instances_alone_shows_its_features():
    assert view_class(build(panoptic(stuff=0))) is FeatureView


def test_queries_have_no_map_that_a_classifier_reads():
    pair_wise = MODELS.build(dict(type='kd_dense.PairWise'))
    (found,) = unmet(build(mask2former()), 'pair', pair_wise)
    assert 'reads head_features, which kd_dense does not know of a EncoderDecoder' in found
    with pytest.raises(SetupError, match='no layer that classifies a map: its queries do'):
        seen(build(mask2former())).stage('head')


def test_with_segmentors_it_teaches_as_one_but_does_not_predict_so():
    models = [build(mask2former()).eval(), segmentation.build(segmentation.segmentor()).eval()]
    ensemble = Ensemble({str(i): FrozenTeacher.of(m, fast=False) for i, m in enumerate(models)})
    ensemble.load(models[1])
    view = seen(build(mask2former()))
    each = [view_class(m)(m, view.batch, torch.no_grad).seg_logits for m in models]
    each[1] = F.interpolate(each[1], (16, 16), mode='bilinear')
    mean = sum(logits.softmax(dim=1) for logits in each) / 2
    found = ensemble.view(view.batch, view).seg_logits
    torch.testing.assert_close(found.softmax(dim=1), mean)
    with pytest.raises(SetupError, match=r'Mask2FormerHead\) decodes no mean.*WeightedBox'):
        ensemble.predictor()


def test_of_larger_images_it_sees_more():
    teacher = FrozenTeacher.of(build(mask2former()).eval(), scale=2)
    student = segmentation.build(segmentation.segmentor())
    teacher.load(student)
    found = teacher.view(seen(build(mask2former())).batch).seg_logits
    assert found.shape == (2, 3, 16, 16)
