"""Detectors of several kinds whose finished boxes are fused."""

import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from kd_dense import MODELS
from kd_dense.errors import SetupError
from kd_dense.hosts.checkpoints import model_state
from kd_dense.teachers import WeightedBoxesFusion
from kd_dense.teachers.predicting import is_ensemble
from tests.helpers import pairs, segmentation, two_stage
from tests.helpers.models import gfl, raw_batch


def batch_of(model):
    return model.data_preprocessor(raw_batch(), False)


def predicted(model, data, **options):
    samples = [sample.clone() for sample in data['data_samples']]
    with torch.no_grad():
        return [each.pred_instances for each in model.predict(data['inputs'], samples, **options)]


class Says(torch.nn.Module):
    """In a detector's place: the same boxes for each image, xyxy in pixels of the input."""

    def __init__(self, like, boxes, scores, labels):
        super().__init__()
        self.data_preprocessor = like.data_preprocessor
        self.test_cfg = like.test_cfg
        self.said = InstanceData(
            bboxes=torch.tensor(boxes).reshape(-1, 4),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels, dtype=torch.long),
        )

    def predict(self, inputs, samples, rescale):
        assert rescale is False
        for sample in samples:
            sample.pred_instances = copy.deepcopy(self.said)
        return samples


def fusion_of(*said):
    like = pairs.build(gfl())
    fusion = WeightedBoxesFusion.of(dict(a=like, b=copy.deepcopy(like)))
    fusion.members = torch.nn.ModuleDict(
        {f'm{i}': Says(like, *each) for i, each in enumerate(said)}
    )
    return fusion, batch_of(like)


def test_two_boxes_of_an_object_become_their_mean_weighted_by_scores():
    fusion, data = fusion_of(
        ([[10.0, 10.0, 50.0, 50.0]], [0.9], [1]), ([[14.0, 10.0, 54.0, 50.0]], [0.3], [1])
    )
    for found in predicted(fusion, data, rescale=False):
        torch.testing.assert_close(found.bboxes, torch.tensor([[11.0, 10.0, 51.0, 50.0]]))
        assert found.labels.tolist() == [1]
        assert found.scores.tolist() == pytest.approx([0.6])


def test_what_one_of_two_sees_alone_counts_half_and_classes_stay_apart():
    fusion, data = fusion_of(
        ([[10.0, 10.0, 50.0, 50.0]], [0.8], [1]), ([[10.0, 10.0, 50.0, 50.0]], [0.6], [2])
    )
    found = predicted(fusion, data, rescale=False)[0]
    assert found.labels.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([0.4, 0.3])


def test_nothing_found_is_nothing():
    fusion, data = fusion_of(([], [], []), ([], [], []))
    assert [len(each) for each in predicted(fusion, data)] == [0, 0]


def test_a_box_in_two_of_a_detector_scores_no_more_than_1():
    near = [[10.0, 10.0, 50.0, 50.0], [11.0, 10.0, 51.0, 50.0]]
    fusion, data = fusion_of((near, [0.9, 0.9], [1, 1]), (near, [0.9, 0.9], [1, 1]))
    assert predicted(fusion, data)[0].scores.max() <= 1


def test_detectors_of_other_kinds_predict_together_in_the_pixels_of_the_image():
    models = [pairs.build(gfl(), 0), pairs.build(pairs.atss(), 1), two_stage.build()]
    data = batch_of(models[0])
    for sample in data['data_samples']:
        sample.set_metainfo(dict(scale_factor=(2.0, 0.5)))
    fusion = WeightedBoxesFusion.of(dict(zip('abc', models, strict=True)))
    ours, theirs = (predicted(fusion, data, rescale=rescale) for rescale in (True, False))
    for large, small in zip(ours, theirs, strict=True):
        assert 0 < len(large) <= 100 and len(large) == len(small)
        factors = torch.tensor([2.0, 0.5, 2.0, 0.5])
        torch.testing.assert_close(large.bboxes * factors, small.bboxes)
        assert large.scores.diff().le(0).all() and large.labels.dtype == torch.long


def test_it_is_built_from_a_config_with_its_checkpoints(tmp_path):
    members = {}
    for name, config in dict(a=gfl(), b=pairs.atss()).items():
        path = tmp_path / f'{name}.pth'
        meta = dict(dataset_meta=dict(classes=('x', 'y', 'z')))
        torch.save(dict(state_dict=pairs.build(config).state_dict(), meta=meta), path)
        members[name] = dict(config=config, checkpoint=str(path))
    config = dict(type='kd_dense.WeightedBoxesFusion', members=members)
    model = MODELS.build(copy.deepcopy(config)).eval()
    assert is_ensemble(config) and model.classes == ('x', 'y', 'z')
    data = batch_of(model.members['a'])
    (sample, _) = model(**data, mode='predict')
    assert isinstance(sample, DetDataSample) and len(sample.pred_instances)
    saved = torch.load(tmp_path / 'b.pth', weights_only=False)
    saved['meta']['dataset_meta']['classes'] = ('x', 'z', 'y')
    torch.save(dict(state_dict=model_state(saved), meta=saved['meta']), tmp_path / 'b.pth')
    with pytest.raises(SetupError, match='know other classes, or in another order'):
        MODELS.build(copy.deepcopy(config))


@pytest.mark.parametrize(
    ('members', 'threshold', 'told'),
    [
        (lambda: dict(a=segmentation.build(segmentation.segmentor())), 0.5, 'no detector'),
        (lambda: dict(a=two_stage.build(two_stage.mask_rcnn())), 0.5, 'predicts masks'),
        (lambda: dict(a=pairs.build(gfl())), 0, 'iou_threshold is 0'),
        (
            lambda: dict(a=pairs.build(gfl()), b=pairs.build(gfl(num_classes=5))),
            0.5,
            'other numbers of classes: a 3, b 5',
        ),
    ],
)
def test_what_cannot_be_fused(members, threshold, told):
    with pytest.raises(SetupError, match=told):
        WeightedBoxesFusion.of(members(), threshold)


@pytest.mark.parametrize('members', [{}, None, ['a']])
def test_no_members(members):
    with pytest.raises(SetupError, match='A WeightedBoxesFusion has `members'):
        WeightedBoxesFusion(members)
