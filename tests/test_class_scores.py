"""Which class is scored highest: pixels as mmseg counts them, boxes as a slow loop finds them."""

import numpy as np
import pytest
import torch
from mmdet.evaluation import eval_map
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from torch import Tensor

from kd_dense.class_bias import GRID, best_shift
from kd_dense.class_scores import (
    BOX_ACC,
    IOU,
    Scored,
    by_class,
    confusion,
    confusions_by_shift,
    metric_of,
    overall,
    scored,
)
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model
from kd_dense.views import Batch, OneStageView
from tests.helpers import pairs, segmentation
from tests.helpers.models import gfl
from tests.helpers.trainings import base_config, shapes_config, state
from tests.helpers.two_stage import faster_rcnn

pytestmark = pytest.mark.usefixtures('own_scope')


def random_scores(number: int = 200, classes: int = 4) -> Scored:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(number, classes, generator=generator)
    return Scored(logits, torch.randint(classes, (number,), generator=generator))


# -- counts ------------------------------------------------------------------------------------


def test_the_confusion_by_hand():
    found = Scored(torch.tensor([[3.0, 1], [0, 2], [5, 4]]), torch.tensor([0, 0, 1]))
    counts = confusion(found)
    assert counts.tolist() == [[1, 1], [1, 0]]
    assert by_class(counts, IOU).tolist() == pytest.approx([100 / 3, 0])
    assert overall(counts, IOU).item() == pytest.approx(100 / 6)
    assert by_class(counts, BOX_ACC).tolist() == [50, 0]
    assert overall(counts, BOX_ACC).item() == pytest.approx(100 / 3)


def test_a_class_that_does_not_occur_counts_for_nothing():
    counts = confusion(Scored(torch.eye(3)[:2], torch.tensor([0, 1])))
    for metric in (IOU, BOX_ACC):
        assert by_class(counts, metric).isnan().tolist() == [False, False, True]
        assert overall(counts, metric) == 100


def test_all_shifts_at_once_are_each_shift_by_itself():
    found, shifts = random_scores(), torch.tensor([-50.0, -1.25, 0, 0.5, 2, 50])
    counts = confusions_by_shift(found, 1, shifts)
    assert counts.shape == (6, 4, 4)
    for shift, one in zip(shifts, counts, strict=True):
        moved = found.logits.clone()
        moved[:, 1] += shift
        assert torch.equal(one, confusion(Scored(moved, found.labels)))
    assert counts[0, :, 1].sum() == 0 and counts[-1, :, 1].sum() == 200


def test_nothing_annotated_is_nothing_counted():
    empty = Scored(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert confusion(empty).sum() == confusions_by_shift(empty, 1, GRID).sum() == 0


# -- the shift by validation -------------------------------------------------------------------


def margins(own: int, values: list[float], label: int) -> Scored:
    """Boxes of a class that class 1 misses by as much, the others far below."""
    logits = torch.full((len(values), 3), -20.0)
    logits[:, own if own != 1 else 0] = 0
    logits[:, 1] = -torch.tensor(values)
    return Scored(logits, torch.full((len(values),), label))


@pytest.fixture
def by_hand(monkeypatch):
    """Boxes as they are said, in the place of a model's."""
    looked: list[int] = []

    def said(_, data):
        looked.append(1)
        return [data]

    monkeypatch.setattr('kd_dense.class_bias.scored', said)
    monkeypatch.setattr('kd_dense.class_bias.metric_of', lambda _: BOX_ACC)
    return looked


def test_the_shift_by_validation_on_a_case_by_hand(by_hand):
    # three boxes of class 1 are lifted by 1.0, 2.0 and 3.0; two of class 2 are lost from 2.55 on
    batches = [margins(1, [1.0, 2.0, 3.0], 1), margins(2, [2.55, 2.55], 2)]
    found, before, after = best_shift(None, iter(batches), 1)
    assert found == pytest.approx(2.1)  # the first step above 2.0, of 2.1 to 2.5
    assert (before, after) == (pytest.approx(40), pytest.approx(80))
    assert len(by_hand) == 2  # each batch is looked at once


def test_no_shift_is_the_best_of_equals(by_hand):
    found, before, after = best_shift(None, iter([margins(2, [5.0], 2)]), 1)
    assert (found, before, after) == (0, 100, 100)


def test_images_without_annotations_choose_no_shift(by_hand):
    with pytest.raises(SetupError, match='Nothing is annotated'):
        best_shift(None, iter([margins(2, [], 2)]), 1)


# -- segmentors --------------------------------------------------------------------------------


def test_iou_is_mmsegs():
    from mmseg.evaluation import IoUMetric

    model = segmentation.build(segmentation.segmentor()).eval()
    raw = segmentation.raw_batch(((48, 64), (48, 64)))
    outputs = model.test_step(raw)
    theirs = IoUMetric()
    theirs.dataset_meta = dict(classes=segmentation.CLASSES)
    theirs.process(raw, [sample.to_dict() for sample in outputs])
    wanted = theirs.compute_metrics(theirs.results)['mIoU']
    for found in (scored(model, raw), scored(model, raw, outputs)):
        assert len(found) == 2
        counts = sum(map(confusion, found))
        assert counts.sum() == 2 * (48 - 2) * 64  # two rows are ignored
        assert overall(counts, IOU).item() == pytest.approx(wanted, abs=0.006)
        assert 0 < wanted < 100


def test_labels_that_are_not_loaded_are_told():
    model = segmentation.build(segmentation.segmentor()).eval()
    raw = segmentation.raw_batch(((64, 64),))
    for sample in raw['data_samples']:
        del sample.gt_sem_seg
    with pytest.raises(SetupError, match='no labels in this data'):
        scored(model, raw)


# -- detectors ---------------------------------------------------------------------------------


def slow_choice(view: OneStageView, image: int, box: list[float]) -> Tensor:
    """The class logits of the valid prediction that overlaps a box most."""
    best, chosen = -1.0, None
    for position, other in enumerate(view.decoded_boxes[image].tolist()):
        if not view.valid[image, position]:
            continue
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        shared = max(width, 0) * max(height, 0)
        areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
        if shared / (sum(areas) - shared) > best:
            best, chosen = shared / (sum(areas) - shared), position
    return view.flat_cls_logits[image, chosen]


@pytest.mark.parametrize('host', [gfl, pairs.retina])
@pytest.mark.parametrize('factor', [1.0, 0.5])
def test_boxes_take_the_scores_of_what_overlaps_them_most(host, factor):
    model = pairs.build(host())
    raw = pairs.raw(pairs.SIZES, pairs.BOXES)
    view = OneStageView(model, pairs.batch_for(model), torch.no_grad)
    for sample in raw['data_samples']:  # annotations of images before they were resized
        sample.gt_instances.bboxes.tensor.div_(factor)
        sample.set_metainfo(dict(scale_factor=(factor, factor)))
    found = scored(model, raw)
    for image, boxes in enumerate(pairs.BOXES):
        wanted = torch.stack([slow_choice(view, image, list(box)) for box in boxes])
        torch.testing.assert_close(found[image].logits, wanted, rtol=1e-4, atol=1e-4)
        assert torch.equal(found[image].labels, raw['data_samples'][image].gt_instances.labels)


def test_images_without_boxes_count_nothing():
    model = pairs.build(gfl())
    found = scored(model, pairs.raw(pairs.SIZES, ((), pairs.BOXES[1])))
    assert [len(each.labels) for each in found] == [0, 1]


def test_boxes_that_are_not_loaded_are_told():
    model, raw = pairs.build(gfl()), pairs.raw(pairs.SIZES, pairs.BOXES)
    for sample in raw['data_samples']:
        del sample.gt_instances
    with pytest.raises(SetupError, match='no boxes in this data'):
        scored(model, raw)


def test_other_models_are_refused():
    with pytest.raises(SetupError, match='Which class a FasterRCNN scores highest'):
        metric_of(build_model(ConfigDict(faster_rcnn())))


def test_a_shift_leaves_ap_as_it_is_and_changes_which_class_a_box_gets():
    """AP ranks within a class: all that a shift can do to it comes from thresholds."""
    model = pairs.build(gfl())
    head, sizes = model.bbox_head, [(16, 16), (8, 8), (4, 4)]
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(1, 3, *size, generator=generator) for size in sizes]
    edges = torch.full((4, 9), -9.0)
    edges[:, 4] = 9  # each box reaches four strides to each side
    bins = [edges.reshape(1, 36, 1, 1).expand(1, 36, *size) for size in sizes]
    view = OneStageView(model, Batch(torch.zeros(1, 3, 128, 128), []))
    view.level_sizes = sizes
    rows = torch.cat([level.flatten(2).transpose(1, 2) for level in bins], dim=1)
    boxes = view.decode(rows)[0]
    objects = torch.arange(20, len(boxes), 30)
    labels = torch.arange(len(objects)) % 3
    flat = torch.cat([level.flatten(2)[0] for level in logits], dim=1)
    flat[labels, objects] += 2
    split = flat.split([h * w for h, w in sizes], dim=1)
    logits = [part.view(1, 3, *size) for part, size in zip(split, sizes, strict=True)]
    annotation = dict(bboxes=boxes[objects].numpy(), labels=labels.numpy())

    def ap(shift: float, threshold: float) -> list[float]:
        moved = [level.clone() for level in logits]
        for level in moved:
            level[:, 1] += shift
        cfg = ConfigDict(
            nms_pre=-1, score_thr=threshold, nms=dict(type='nms', iou_threshold=0.9),
            max_per_img=100_000, min_bbox_size=0,
        )  # fmt: skip
        meta = [dict(img_shape=(1000, 1000), scale_factor=(1, 1))]
        found = head.predict_by_feat(moved, bins, batch_img_metas=meta, cfg=cfg)[0]
        detections = [
            np.column_stack([found.bboxes[found.labels == k], found.scores[found.labels == k]])
            for k in range(3)
        ]
        _, each = eval_map([detections], [annotation], iou_thr=0.8, logger='silent')
        return [float(one['ap']) for one in each]

    assert min(ap(0, 0.0)) > 0.05 and max(ap(0, 0.0)) < 0.95
    for shift in (-3.5, 3.5):
        assert ap(shift, 0.0) == pytest.approx(ap(0, 0.0))
    assert ap(-4, 0.5)[1] < ap(0, 0.5)[1]  # what a threshold takes away is another matter
    counts = confusions_by_shift(Scored(flat.T[objects], labels), 1, torch.tensor([-3.5, 0, 3.5]))
    right = by_class(counts, BOX_ACC)
    assert right[0, 1] < right[1, 1] and right[2, 0] < right[1, 0]


# -- in evaluations ----------------------------------------------------------------------------


def run(config: dict) -> Runner:
    runner = Runner.from_cfg(Config(config))
    runner.train()
    return runner


def measured(config: dict) -> tuple[dict, object]:
    """The metrics of the last validation of a training with the hook, and its student."""
    config['custom_hooks'] = [dict(type='kd_dense.ClassMetricsHook')]
    runner = run(config)
    hub = runner.message_hub.log_scalars
    found = {key[4:]: value.current() for key, value in hub.items() if key.startswith('val/')}
    return found, runner


def test_validations_tell_of_each_class_of_a_detector(digits_root, tmp_path):
    found, runner = measured(base_config(digits_root, tmp_path))
    counts = sum(
        confusion(each)
        for data in runner.val_dataloader
        for each in scored(runner.model.student.eval(), data)
    )
    assert found['box_acc/all'] == pytest.approx(overall(counts, BOX_ACC).item(), abs=0.006)
    names = runner.val_dataloader.dataset.metainfo['classes']
    values = dict(zip(names, by_class(counts, BOX_ACC).tolist(), strict=True))
    told = {key.removeprefix('box_acc/'): v for key, v in found.items() if key[:4] == 'box_'}
    told.pop('all')
    assert told == pytest.approx({k: v for k, v in values.items() if v == v}, abs=0.006)
    assert 'coco/bbox_mAP' in found


def test_validations_tell_of_each_class_of_a_segmentor(tmp_path):
    found, _ = measured(shapes_config(tmp_path / 'data', tmp_path / 'out'))
    values = [found[f'IoU/{name}'] for name in segmentation.CLASSES]
    assert sum(values) / 3 == pytest.approx(found['mIoU'], abs=0.01)
    assert 'box_acc/all' not in found


def test_the_hook_changes_nothing_of_the_training(digits_root, tmp_path):
    for name, hooks in (('with', [dict(type='kd_dense.ClassMetricsHook')]), ('without', [])):
        run(base_config(digits_root, tmp_path / name) | dict(custom_hooks=hooks))
    first, second = (
        state(tmp_path / name / 'iter_4.pth')['state_dict'] for name in ('with', 'without')
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
