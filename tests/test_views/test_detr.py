"""The view of detection transformers: what the hosts compute, noted or asked for."""

import copy

import pytest
import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy

from kd_dense.errors import SetupError
from kd_dense.hosts.detr import is_detr
from kd_dense.views import Batch, DetrView, host_info, view_class
from tests.helpers import models, pairs, two_stage
from tests.helpers.detr import HOSTS, batch_for, build, dino, noted

EACH_HOST = pytest.mark.parametrize('host', HOSTS)


@EACH_HOST
def test_a_view_computes_what_the_model_does(host):
    model = build(HOSTS[host]())
    batch = batch_for(model)
    view = DetrView(model, batch, torch.no_grad)
    with torch.no_grad():
        inputs, _ = model.pre_transformer(view.features, batch.samples)
        encoded = model.forward_encoder(**inputs)
        logits, boxes = model._forward(batch.images, batch.samples)
    rows = torch.cat([level.flatten(2) for level in view.memory], dim=2).mT
    assert torch.equal(rows, encoded['memory'])
    assert torch.equal(view.stage('memory.0'), view.memory[0])
    assert torch.equal(view.query_logits, logits) and torch.equal(view.query_boxes, boxes)
    assert all(each.shape[:2] == (2, 10) for each in view.queries.values())
    told = ', '.join(f'{name} ({each.shape[2]})' for name, each in view.queries.items())
    assert host_info(model).queries == told


@EACH_HOST
def test_what_a_student_computed_is_noted_without_the_queries_of_training(host):
    model = build(HOSTS[host](dropout=0.0))
    batch = batch_for(model)
    view = noted(model, batch)
    shown, calls = dict(vars(view)), []
    model.backbone.register_forward_hook(lambda *_: calls.append('backbone'))
    assert view.query_logits.shape[1:3] == (2, 10) and view.query_logits.requires_grad
    assert {'_answered', '_encoded', '_decoder_inputs'} <= set(shown)
    # asked again without denoising and dense queries: they are not seen by the others
    modes = [module.training for module in model.modules()]
    cache = dict(getattr(model, 'cache_dict', {}))
    logits, boxes = view.answers(view.queries)
    torch.testing.assert_close(logits, view.query_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(boxes, view.query_boxes, rtol=1e-4, atol=1e-5)
    assert not calls and modes == [module.training for module in model.modules()]
    assert cache == getattr(model, 'cache_dict', {})


def test_a_stage_of_the_memory_that_is_not_there_is_refused():
    model = build(dino())
    with pytest.raises(SetupError, match=r"no stage 'memory.2'; it has 2, memory.0 to memory.1"):
        DetrView(model, batch_for(model), torch.no_grad).stage('memory.2')


def test_a_transformer_in_half_precision_is_refused_and_its_features_are_not():
    model = build(dino()).bfloat16()
    batch = batch_for(model)
    batch = Batch(batch.images.bfloat16(), batch.samples)
    view = DetrView(model, batch, torch.no_grad)
    assert len(view.features) == 2
    with pytest.raises(SetupError, match=r"single precision only.*Leave the teacher's `dtype` out"):
        _ = view.query_logits


def test_hosts_that_run_otherwise_show_their_features_alone():
    model = build(dino())
    other = copy.copy(model)
    other.__class__ = type('Other', (type(model),), dict(forward_transformer=lambda *_: {}))
    assert is_detr(model) and not is_detr(other)
    assert view_class(model) is DetrView and view_class(other).family == 'features-only'


@pytest.mark.parametrize('host', [models.gfl, two_stage.faster_rcnn, dino])
def test_detections_are_what_a_detector_predicts(host):
    build_host = build if host is dino else pairs.build
    model = build_host(host())
    batch = pairs.batch_for(model)
    view = view_class(model)(model, batch, torch.no_grad)
    samples = [type(s)(metainfo=s.metainfo) for s in batch.samples]
    with torch.no_grad():
        expected = model.predict(batch.images, samples, rescale=False)
    assert not hasattr(batch.samples[0], 'pred_instances')
    for found, sample, (height, width) in zip(
        view.detections, expected, batch.image_sizes(), strict=True
    ):
        boxes = bbox_cxcywh_to_xyxy(found.boxes) * torch.tensor([width, height] * 2)
        wanted = sample.pred_instances
        assert len(wanted) > 0
        for box, score, label in zip(wanted.bboxes, wanted.scores, wanted.labels, strict=True):
            clipped = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height] * 2))
            near = (clipped - box).abs().amax(dim=1) < 1e-2
            assert torch.isclose(found.scores[near, label], score, atol=1e-5).any()
