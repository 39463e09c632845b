"""Regions: each equal to a slow loop over anchors and objects, and never in the padding."""

import math

import pytest
import torch
from mmdet.models.losses.iou_loss import diou_loss
from mmdet.structures.bbox import bbox_overlaps

from kd_dense.errors import SetupError
from kd_dense.losses import regions
from kd_dense.losses.regions import REGIONS, region_demands
from kd_dense.views import OneStageView
from tests.helpers import pairs
from tests.helpers.models import gfl
from tests.helpers.pairs import atss, batch_for, build, fcos, noted, retina

STRIDES = (8, 16, 32)
SIZES = ((128, 160), (70, 100))
# no two candidates are equally near; one object lies in the corner of the smaller image, so that
# some of its candidates lie in the padding, which the assigner is shown up to a multiple of 32
OBJECTS = (
    ((10.3, 12.1, 60.9, 50.2), (70.4, 30.3, 150.1, 120.6), (20.7, 80.9, 44.2, 104.1)),
    ((86.6, 58.3, 99.1, 69.9), (31.2, 20.9, 60.7, 60.3)),
)


def pair(config: dict | None = None, boxes: tuple = OBJECTS) -> tuple[OneStageView, OneStageView]:
    return pairs.pair(config, SIZES, boxes)


@pytest.fixture
def views() -> tuple[OneStageView, OneStageView]:
    return pair()


def slow_positions() -> list[tuple[int, int, int, int]]:
    """(image, level, row, column) of each prediction, in the order of a flat mask."""
    return [
        (image, level, row, column)
        for image in range(2)
        for level, stride in enumerate(STRIDES)
        for row in range(128 // stride)
        for column in range(160 // stride)
    ]


def slow_mask(chosen) -> torch.Tensor:
    """A mask from a function of (image, level, row, column)."""
    return torch.tensor([chosen(*p) for p in slow_positions()]).reshape(2, -1)


def in_image(image: int, level: int, row: int, column: int) -> bool:
    height, width = SIZES[image]
    return row * STRIDES[level] < height and column * STRIDES[level] < width


def anchor(level: int, row: int, column: int) -> list[float]:
    """Anchors of the small GFL are squares of four strides around the position's corner."""
    stride = STRIDES[level]
    x, y = column * stride, row * stride
    return [x - 2 * stride, y - 2 * stride, x + 2 * stride, y + 2 * stride]


def area(box) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def iou(a, b) -> float:
    both = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return both / (area(a) + area(b) - both)


def middle(box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def diou(a, b) -> float:
    (ax, ay), (bx, by) = middle(a), middle(b)
    width, height = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    return iou(a, b) - ((ax - bx) ** 2 + (ay - by) ** 2) / (width**2 + height**2)


def shown_to_assigner(image: int) -> list[tuple[int, int, int]]:
    """mmdet shows its assigner the positions of an image padded to a multiple of 32."""
    height, width = (math.ceil(side / 32) * 32 for side in SIZES[image])
    return [
        (level, row, column)
        for i, level, row, column in slow_positions()
        if i == image and row * STRIDES[level] < height and column * STRIDES[level] < width
    ]


def slow_atss(image: int, box) -> tuple[list, float]:
    """Candidates of an object and its threshold, after algorithm 1 of the ATSS paper."""
    x, y = middle(box)
    candidates = []
    for level in range(3):
        near = sorted(
            (math.dist(middle(anchor(*p)), (x, y)), p)
            for p in shown_to_assigner(image)
            if p[0] == level
        )
        candidates += [p for _, p in near[:9]]
    overlaps = [iou(anchor(*p), box) for p in candidates]
    mean = sum(overlaps) / len(overlaps)
    variance = sum((o - mean) ** 2 for o in overlaps) / (len(overlaps) - 1)
    return candidates, mean + math.sqrt(variance)


# -- each region, by a slow loop ---------------------------------------------------------------


def test_all_positions_are_those_that_start_inside_the_image(views):
    mask = REGIONS['all'](*views)
    assert torch.equal(mask, slow_mask(in_image))
    assert mask.sum(dim=1).tolist() == [420, 9 * 13 + 5 * 7 + 3 * 4]


def test_inside_boxes_takes_the_positions_whose_centre_an_object_holds(views):
    def chosen(image, level, row, column):
        stride = STRIDES[level]
        x, y = column * stride, row * stride
        held = any(b[0] <= x < b[2] and b[1] <= y < b[3] for b in OBJECTS[image])
        return held and in_image(image, level, row, column)

    mask = REGIONS['box'](*views)
    assert torch.equal(mask, slow_mask(chosen))
    assert 0 < mask.sum() < 420


def test_inside_boxes_takes_all_predictions_of_a_position():
    student, teacher = pair(retina())
    mask = REGIONS['box'](student, teacher).reshape(2, -1, 9)
    assert torch.equal(mask.all(dim=2), mask.any(dim=2))
    assert torch.equal(mask[..., 0], REGIONS['box'](*pair()))


def test_fine_grained_takes_anchors_above_half_of_the_best_overlap_of_an_object(views):
    best = [
        [max(iou(anchor(*p), box) for p in shown_to_assigner(image)) for box in OBJECTS[image]]
        for image in range(2)
    ]

    def chosen(image, level, row, column):
        near = any(
            iou(anchor(level, row, column), box) > 0.5 * top
            for box, top in zip(OBJECTS[image], best[image], strict=True)
        )
        return near and in_image(image, level, row, column)

    mask = REGIONS['fine_grained'](*views)
    assert torch.equal(mask, slow_mask(chosen))
    assert (mask.sum(dim=1) > 5).all()


def test_the_main_region_is_the_positives_of_the_heads_own_targets(views):
    student = views[0]
    head = student.model.bbox_head
    instances = [s.gt_instances for s in student.batch.samples]
    metas = [s.metainfo for s in student.batch.samples]
    grids, flags = head.get_anchors(student.level_sizes, metas, device='cpu')
    targets = head.get_targets(grids, flags, instances, metas)
    labels = torch.cat(targets[1], dim=1)
    mask = REGIONS['main'](*views)
    assert torch.equal(mask, labels < 3)
    assert (mask.sum(dim=1) > 0).all()
    assert not (mask & ~student.valid).any()


def test_the_valuable_region_equals_algorithm_1(views):
    thresholds = [[slow_atss(i, box)[1] for box in OBJECTS[i]] for i in range(2)]

    def overlap(image, level, row, column):
        """Best IoU with the objects in whose region the anchor lies, -1 outside."""
        own = anchor(level, row, column)
        held = [
            iou(own, box)
            for box, a in zip(OBJECTS[image], thresholds[image], strict=True)
            if 0.25 * a <= diou(own, box) < a
        ]
        return max(held, default=-1) if in_image(image, level, row, column) else -1

    expected = slow_mask(overlap)
    torch.testing.assert_close(regions.vlr_overlaps(views[0]), expected.float())
    mask = REGIONS['vlr'](*views)
    assert torch.equal(mask, expected >= 0)
    assert (mask.sum(dim=1) > 20).all()
    assert regions.GAMMA_VLR == 0.25


def test_the_references_valuable_region_divides_by_the_anchors_area(views):
    def overlap(image, level, row, column):
        own, held = anchor(level, row, column), [-1.0]
        for box in OBJECTS[image]:
            threshold = slow_atss(image, box)[1]
            shared = iou(own, box) * (area(own) + area(box)) / (1 + iou(own, box))
            published = shared / area(own) + diou(own, box) - iou(own, box)
            if 0.25 * threshold <= published < threshold:
                held.append(iou(own, box))
        return max(held) if in_image(image, level, row, column) else -1

    found = regions.vlr_overlaps(views[0], 'reference')
    torch.testing.assert_close(found, slow_mask(overlap).float())
    assert ((found >= 0) != (regions.vlr_overlaps(views[0]) >= 0)).sum() > 20


def test_general_instances_are_the_boxes_most_disagreed_on(views):
    student, teacher = views
    generator = torch.Generator().manual_seed(3)
    for view in views:
        corner = torch.rand(2, 420, 2, generator=generator) * 110
        size = 10 + torch.rand(2, 420, 2, generator=generator) * 20
        view.decoded_boxes = torch.cat([corner, corner + size], dim=-1)
    s, t = (v.flat_cls_logits.sigmoid().tolist() for v in views)
    ours, theirs = (v.decoded_boxes.tolist() for v in views)
    instances = []
    for i in range(2):
        found = []
        for p, position in enumerate(slow_positions()[:420]):
            if not in_image(i, *position[1:]):
                continue
            gap, c = max((abs(t[i][p][c] - s[i][p][c]), c) for c in range(3))
            found.append((gap, theirs[i][p] if t[i][p][c] > s[i][p][c] else ours[i][p]))
        kept = []
        for _, box in sorted(found, key=lambda pair: -pair[0]):
            if len(kept) < 10 and all(iou(box, other) <= 0.3 for other in kept):
                kept.append(box)
        assert len(kept) == 10
        instances.append(kept)

    def chosen(image, level, row, column):
        x, y = column * STRIDES[level], row * STRIDES[level]
        held = any(b[0] <= x < b[2] and b[1] <= y < b[3] for b in instances[image])
        return held and in_image(image, level, row, column)

    mask = REGIONS['general'](student, teacher)
    assert torch.equal(mask, slow_mask(chosen))
    assert 0 < mask.sum() < student.valid.sum()


def test_general_instances_take_no_box_predicted_in_the_padding(views):
    student, teacher = views
    for view in views:
        boxes = torch.tensor([5.0, 5.0, 20.0, 20.0]).repeat(2, 420, 1)
        boxes[~student.valid] = torch.tensor([60.0, 60.0, 80.0, 80.0])
        view.decoded_boxes = boxes
    finest = student.positions(REGIONS['general'](student, teacher))[0]
    # positions (1, 1) to (2, 2) stand for (8, 8) to (16, 16); the boxes in the padding hold (8, 8)
    held = [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert finest[1].nonzero().tolist() == held
    assert finest[0].nonzero().tolist() == held


def test_general_instances_pass_no_gradient(views):
    assert not REGIONS['general'](*views).requires_grad


# -- padding, no objects, odd objects ----------------------------------------------------------


# an object that reaches out of its image itself, as mmdet's pipelines do not let it; the main
# region is then whatever the assigner says
BEYOND = ((40.3, 30.2, 150.6, 120.4),)


@pytest.mark.parametrize(
    ('name', 'second'),
    [(name, OBJECTS[1]) for name in REGIONS]
    + [(name, BEYOND) for name in REGIONS if name != 'main'],
)
def test_no_region_reaches_into_the_padding(name, second):
    mask = REGIONS[name](*pair(boxes=(OBJECTS[0], second)))
    assert mask.dtype == torch.bool and mask.shape == (2, 420)
    assert mask[1].any()
    assert not (mask & ~slow_mask(in_image)).any()


@pytest.mark.parametrize('name', ['box', 'fine_grained', 'main', 'vlr'])
def test_images_without_objects_have_empty_regions(name):
    mask = REGIONS[name](*pair(boxes=((), OBJECTS[1])))
    assert not mask[0].any() and mask[1].any()
    assert not REGIONS[name](*pair(boxes=((), ()))).any()


@pytest.mark.parametrize('name', REGIONS)
@pytest.mark.parametrize(
    'box', [(40.0, 40.0, 40.0, 40.0), (40.0, 30.0, 40.5, 90.0), (0.0, 0.0, 160.0, 128.0)]
)
def test_points_lines_and_objects_as_large_as_the_image_make_no_trouble(name, box):
    mask = REGIONS[name](*pair(boxes=((box,), OBJECTS[1])))
    assert mask.dtype == torch.bool and mask.shape == (2, 420)
    assert mask[1].any()
    overlaps = regions.vlr_overlaps(pair(boxes=((box,), ()))[0])
    assert torch.isfinite(overlaps).all()


def test_an_object_of_no_size_is_in_no_valuable_or_fine_grained_region():
    views = pair(boxes=(((40.0, 40.0, 40.0, 40.0),), ()))
    assert not REGIONS['vlr'](*views).any() and not REGIONS['fine_grained'](*views).any()


# -- ATSS's threshold, DIoU, centres -----------------------------------------------------------


@pytest.mark.parametrize('image', [0, 1])
def test_anchors_at_or_above_atss_threshold_are_the_assigners_positives(image):
    for box in OBJECTS[image]:
        boxes = ((box,), ()) if image == 0 else ((), (box,))
        student, teacher = pair(boxes=boxes)
        candidates, threshold = slow_atss(image, box)
        x1, y1, x2, y2 = box
        positives = {
            (level, row, column)
            for level, row, column in candidates
            if iou(anchor(level, row, column), box) >= threshold
            and x1 + 0.01 < column * STRIDES[level] < x2 - 0.01
            and y1 + 0.01 < row * STRIDES[level] < y2 - 0.01
        }
        found = REGIONS['main'](student, teacher)[image]
        positions = [p[1:] for p in slow_positions()[:420]]
        assert {p for p, hit in zip(positions, found.tolist(), strict=True) if hit} == positives
        assert positives


def test_atss_threshold_equals_a_slow_loop():
    for image in range(2):
        shown = shown_to_assigner(image)
        grid = torch.tensor([anchor(*p) for p in shown], dtype=torch.float32)
        boxes = torch.tensor(OBJECTS[image])
        per_level = [sum(p[0] == level for p in shown) for level in range(3)]
        found = regions.atss_threshold(grid, bbox_overlaps(grid, boxes), boxes, per_level, topk=9)
        assert found.tolist() == pytest.approx([slow_atss(image, b)[1] for b in OBJECTS[image]])


def test_atss_threshold_takes_whole_levels_that_hold_fewer_than_topk():
    grid = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 20, 20]])
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    # overlaps 1, 1/3 and 1/4: mean 19/36, sample variance of them
    values = [1, 1 / 3, 1 / 4]
    mean = sum(values) / 3
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    found = regions.atss_threshold(grid, bbox_overlaps(grid, boxes), boxes, [2, 1], topk=9)
    assert found.item() == pytest.approx(mean + std)


def test_distance_iou_literal():
    # IoU 1/7; centres (1, 1) and (2, 2); diagonal of the enclosing (0, 0, 3, 3)
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    found = regions.distance_iou(a, b, bbox_overlaps(a, b)).item()
    assert found == pytest.approx(1 / 7 - 2 / 18)


def test_distance_iou_equals_mmdets_diou_loss():
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 6, 2, generator=generator) * 40
    a = torch.cat([corner, corner + size + 1], dim=1)
    b = a.roll(1, 0) + 5
    found = regions.distance_iou(a, b, bbox_overlaps(a, b))
    assert found.shape == (6, 6)
    for g in range(6):
        expected = 1 - diou_loss(a, b[g].expand(6, 4), reduction='none')
        torch.testing.assert_close(found[:, g], expected, rtol=1e-4, atol=1e-5)


def test_positions_stand_for_the_centres_of_the_hosts_own_priors(views):
    expected = [
        [column * STRIDES[level], row * STRIDES[level]]
        for image, level, row, column in slow_positions()
        if image == 0
    ]
    assert regions.position_centres(views[0]).tolist() == expected
    anchors = views[0].assignment.anchors[0]
    torch.testing.assert_close(
        regions.position_centres(views[0])[views[0].valid[0]],
        ((anchors[:, :2] + anchors[:, 2:]) / 2)[views[0].valid[0]],
    )


def test_points_of_fcos_lie_in_the_middle_of_each_position():
    model = build(fcos())
    student = noted(model, batch_for(model))
    points = student.model.bbox_head.prior_generator.grid_priors(student.level_sizes, device='cpu')
    torch.testing.assert_close(regions.position_centres(student), torch.cat(points))


# -- what regions ask for ----------------------------------------------------------------------


def crowd(config: dict, threshold: float) -> tuple[OneStageView, OneStageView]:
    """A pair whose first image has an ignored box, and an assigner that heeds it or does not."""
    config['train_cfg']['assigner']['ignore_iof_thr'] = threshold
    return pairs.pair(config, SIZES, OBJECTS, ignored=(((60.0, 20.0, 158.0, 126.0),), ()))


@pytest.mark.parametrize('config', [gfl, atss])
def test_what_lies_under_ignored_boxes_is_in_no_region(config):
    student, teacher = crowd(config(), 0.5)
    kept = student.assignment.label_weights > 0
    names = [name for name in REGIONS if not region_demands(name, student.model)]
    assert {'all', 'box', 'main', 'vlr', 'fine_grained'} <= set(names)
    assert (student.valid & ~kept).sum() > 50
    for name in names:
        chosen = REGIONS[name](student, teacher)
        assert chosen.any() and not (chosen & ~kept).any(), name
        assert (REGIONS[name](*crowd(config(), -1)) & ~kept).any() or name == 'main', name


def test_atss_thresholds_heed_ignored_boxes_as_the_assigner_does(monkeypatch):
    student, _ = crowd(gfl(), 0.5)
    thresholds = []
    real = regions.atss_threshold
    monkeypatch.setattr(
        regions, 'atss_threshold', lambda *args: thresholds.append(real(*args)) or thresholds[-1]
    )
    regions.vlr_overlaps(student)
    assert not torch.equal(thresholds[0], slow_thresholds(0))  # those without ignored boxes
    anchors, targets = student.assignment.anchors, student.assignment.box_targets
    for image, boxes in enumerate(student.boxes):
        for box, threshold in zip(boxes, thresholds[image], strict=True):
            own = student.positives[image] & (targets[image] == box).all(dim=-1)
            assert (bbox_overlaps(anchors[image, own], box[None]) >= threshold - 1e-6).all()


def slow_thresholds(image: int) -> torch.Tensor:
    return torch.tensor([slow_atss(image, box)[1] for box in OBJECTS[image]])


def test_retinanets_assigner_ignores_wherever_it_is_told():
    config = retina()
    config['train_cfg']['assigner'].update(ignore_iof_thr=0.5, ignore_wrt_candidates=False)
    student, _ = crowd(config, 0.9)
    anchors, box = student.anchors, torch.tensor((60.0, 20.0, 158.0, 126.0))
    low, high = torch.maximum(anchors[:, :2], box[:2]), torch.minimum(anchors[:, 2:], box[2:])
    share = (high - low).clamp(min=0).prod(dim=1) / (98.0 * 106.0)
    assert torch.equal(student.ignored[0], share > 0.9) and not student.ignored[1].any()
    assert 0 < student.ignored[0].sum() < len(anchors)


def test_an_unknown_region_is_refused_with_the_choices():
    with pytest.raises(SetupError, match="region is 'moon'; choose one of 'all', 'box', 'fine_g"):
        regions.check_region('moon')
    for name in REGIONS:
        regions.check_region(name)


def test_regions_say_what_they_miss_in_a_head():
    def demands(config):
        model = build(config)
        return {name: found for name in REGIONS if (found := region_demands(name, model))}

    assert demands(gfl()) == {}
    found = demands(atss())
    assert list(found) == ['general']
    assert found['general'] == ["region 'general' needs a GFLHead, found ATSSHead"]
    found = demands(retina())
    assert list(found) == ['fine_grained', 'vlr', 'general']
    assert found['vlr'] == [
        "region 'vlr' needs the anchors of a GFLHead or ATSSHead, found RetinaHead"
    ]
    assert list(demands(fcos())) == ['fine_grained', 'vlr', 'general']


def test_the_valuable_region_asks_for_an_atss_assigner():
    config = gfl()
    config['train_cfg'].update(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4)
    )
    (found,) = region_demands('vlr', build(config))
    assert found == "region 'vlr' needs an ATSSAssigner, found MaxIoUAssigner"


@pytest.mark.parametrize('config', [atss, gfl])
def test_regions_of_anchors_work_on_each_head_they_admit(config):
    model = build(config())
    student = noted(model, batch_for(model, SIZES, OBJECTS))
    for name in ('main', 'vlr', 'fine_grained'):
        assert REGIONS[name](student, student).any(dim=1).all()
