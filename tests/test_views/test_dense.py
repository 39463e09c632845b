"""Views: what they show is the model's own, in mmdet's order, and computed only when read."""

import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from torch import nn

from kd_dense.errors import SetupError
from kd_dense.hosts.heads import flatten_levels
from kd_dense.views import Batch, FeatureView, OneStageView, view_class
from kd_dense.views.watch import watch_calls
from tests.helpers.models import gfl
from tests.helpers.pairs import HOSTS, SIZES, atss, batch_for, build, fcos, noted, retina
from tests.helpers.two_stage import hybrid_cascade

EACH_HOST = pytest.mark.parametrize('host', HOSTS)


def own_targets(view: OneStageView) -> tuple:
    """What the head's ``get_targets`` gives when called by hand."""
    head = view.model.bbox_head
    instances = [s.gt_instances for s in view.batch.samples]
    metas = [s.metainfo for s in view.batch.samples]
    if not hasattr(head, 'get_anchors'):
        points = head.prior_generator.grid_priors(view.level_sizes, device='cpu')
        return head.get_targets(points, instances)
    anchors, flags = head.get_anchors(view.level_sizes, metas, device='cpu')
    return head.get_targets(anchors, flags, instances, metas)


def five_levels() -> dict:
    """A GFL with levels coarser than what images are padded to."""
    config = gfl()
    config['neck'].update(num_outs=5, add_extra_convs='on_output')
    config['bbox_head']['anchor_generator']['strides'] = [8, 16, 32, 64, 128]
    return config


def count_calls(model: nn.Module, parts: tuple = ('backbone', 'bbox_head')) -> dict[str, int]:
    """Count how often parts of a model run from now on."""
    calls = dict.fromkeys(parts, 0)

    def count(name):
        calls[name] += 1

    for name in calls:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: count(name))
    return calls


# -- what is noted -----------------------------------------------------------------------------


@EACH_HOST
def test_what_is_noted_of_a_student_is_what_its_loss_used(host):
    model = build(HOSTS[host]())
    batch = batch_for(model)
    view = noted(model, batch)
    features = model.extract_feat(batch.images)
    outputs = model.bbox_head(features)
    assert len(view.features) == len(view.cls_logits) == len(view.box_logits) == 3
    for level in range(3):
        assert torch.equal(view.features[level], features[level])
        assert torch.equal(view.cls_logits[level], outputs[0][level])
        assert torch.equal(view.box_logits[level], outputs[1][level])
    assert view.features[0].requires_grad and view.cls_logits[0].requires_grad


@EACH_HOST
def test_a_view_that_notes_nothing_computes_the_same(host):
    model = build(HOSTS[host]())
    batch = batch_for(model)
    ours, theirs = OneStageView(model, batch, torch.no_grad), noted(model, batch)
    assert torch.equal(ours.flat_cls_logits, theirs.flat_cls_logits)
    assert torch.equal(ours.flat_box_logits, theirs.flat_box_logits)
    assert not ours.flat_cls_logits.requires_grad


@EACH_HOST
def test_noting_changes_neither_losses_nor_gradients(host):
    model = build(HOSTS[host]())
    batch = batch_for(model)
    found = []
    for inside in (False, True):
        model.zero_grad()
        if inside:
            with OneStageView(model, batch).recording():
                losses = model.loss(batch.images, batch.samples)
        else:
            losses = model.loss(batch.images, batch.samples)
        total, _ = model.parse_losses(losses)
        total.backward()
        found.append((total.detach(), model.neck.fpn_convs[0].conv.weight.grad.clone()))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize('host', ['gfl', 'atss'])
def test_the_assignment_of_atss_heads_is_what_get_targets_gives(host):
    view = noted(model := build(HOSTS[host]()), batch_for(model))
    anchors, labels, _, boxes = own_targets(view)[:4]
    for found, expected in zip(view.assignment[:3], (anchors, labels, boxes), strict=True):
        assert torch.equal(found, torch.cat(expected, dim=1))
    assert view.assignment.anchors.shape == (2, 420, 4)
    assert torch.equal(view.positives, view.assignment.labels < 3)
    assert (view.positives.sum(dim=1) > 0).all()


@pytest.mark.parametrize('loss_cls', [{}, dict(type='CrossEntropyLoss', use_sigmoid=False)])
def test_the_assignment_of_a_retina_head_is_what_get_targets_gives(loss_cls):
    head = dict(loss_cls=loss_cls) if loss_cls else {}
    view = noted(model := build(retina(**head)), batch_for(model))
    labels, _, boxes = own_targets(view)[:3]
    assert view.assignment.anchors is None
    assert torch.equal(view.assignment.labels, torch.cat(labels, dim=1))
    assert torch.equal(view.assignment.box_targets, torch.cat(boxes, dim=1))
    assert view.positives.shape == (2, 420 * 9)
    assert 0 < view.positives.sum() < 500


def test_the_assignment_of_an_fcos_head_is_what_get_targets_gives():
    view = noted(model := build(fcos()), batch_for(model))
    labels, boxes = own_targets(view)
    assert view.assignment.labels.shape == (2, 420)
    start = 0
    for level, count in enumerate((320, 80, 20)):  # mmdet: level by level, all images of each
        for image in range(2):
            rows = slice(image * count, (image + 1) * count)
            own = slice(start, start + count)
            assert torch.equal(view.assignment.labels[image, own], labels[level][rows])
            assert torch.equal(view.assignment.box_targets[image, own], boxes[level][rows])
        start += count
    assert (view.positives.sum(dim=1) > 0).all()


def test_positives_of_an_image_lie_in_its_own_objects():
    model = build(gfl())
    corner = ((4.0, 4.0, 60.0, 60.0),)
    view = noted(model, batch_for(model, boxes=(corner, ())))
    image, position = view.positives.nonzero().unbind(dim=1)
    assert len(image) > 0 and not image.any()
    anchors = view.assignment.anchors[0, position]
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert ((centres > 4) & (centres < 60)).all()


def test_a_head_that_assigns_otherwise_shows_no_assignment_and_says_so():
    model = build(gfl())

    class OtherHead(type(model.bbox_head)):
        def get_targets(self, *args, **kwargs):
            return super().get_targets(*args, **kwargs)

    model.bbox_head.__class__ = OtherHead
    view = noted(model, batch_for(model))
    assert len(view.cls_logits) == 3
    with pytest.raises(SetupError, match=r'No label assignment is known of this OtherHead.*FCOSHe'):
        _ = view.positives


def test_a_teacher_shows_no_assignment():
    model = build(gfl())
    view = OneStageView(model, batch_for(model), torch.no_grad)
    with pytest.raises(SetupError, match=r'No label assignment is known of this GFLHead'):
        _ = view.assignment


# -- order, sizes, padding ---------------------------------------------------------------------


@pytest.mark.parametrize('config', [gfl, atss, retina])
def test_flat_predictions_are_in_the_order_of_mmdets_anchors(config):
    head = build(config()).bbox_head
    sizes, anchors = [(4, 6), (2, 3), (1, 2)], head.num_base_priors
    maps = []
    for level, (h, w) in enumerate(sizes):  # each prediction tells its place
        place = torch.zeros(2, anchors, 5, h, w)
        place[:, :, 0] = level
        place[:, :, 1] = torch.arange(h)[:, None]
        place[:, :, 2] = torch.arange(w)
        place[:, :, 3] = torch.arange(anchors)[:, None, None]
        place[1, :, 4] = 1
        maps.append(place.reshape(2, anchors * 5, h, w))
    flat = flatten_levels(maps, channels=5)
    grid = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu'))
    assert flat.shape == (2, len(grid), 5)
    assert flat[:, :, 4].tolist() == [[0] * len(grid), [1] * len(grid)]
    for p in range(len(grid)):
        level, row, column, a = flat[0, p, :4].long().tolist()
        stride = (8, 16, 32)[level]
        shift = torch.tensor([column, row, column, row]) * stride
        assert torch.allclose(grid[p], head.prior_generator.base_anchors[level][a] + shift)


def test_flattening_takes_non_contiguous_maps():
    maps = [torch.arange(48.0).reshape(1, 4, 3, 4)]
    last = [maps[0].contiguous(memory_format=torch.channels_last)]
    assert torch.equal(flatten_levels(last, 2), flatten_levels(maps, 2))
    assert flatten_levels(maps, 2).shape == (1, 24, 2)
    assert flatten_levels(maps, 2)[0, :3].tolist() == [[0, 12], [24, 36], [1, 13]]


def test_levels_tell_their_sizes_strides_and_predictions():
    view = noted(model := build(retina()), batch_for(model))
    assert view.level_sizes == [(16, 20), (8, 10), (4, 5)]
    assert view.strides == (8, 16, 32) and view.num_anchors == 9 and view.num_classes == 3
    assert view.level_index.tolist() == [0] * 320 * 9 + [1] * 80 * 9 + [2] * 20 * 9
    assert view.flat_cls_logits.shape == (2, 3780, 3)
    assert view.flat_box_logits.shape == (2, 3780, 4)


def test_flat_logits_are_float32_whatever_the_model_computes_in():
    view = noted(model := build(gfl()), batch_for(model))
    view.cls_logits = [m.bfloat16() for m in view.cls_logits]
    view.box_logits = [m.bfloat16() for m in view.box_logits]
    assert view.flat_cls_logits.dtype == view.flat_box_logits.dtype == torch.float32


@pytest.mark.parametrize('config', [gfl, five_levels, retina])
@pytest.mark.parametrize(
    'sizes', [SIZES, ((128, 160), (128, 160)), ((97, 130), (70, 33)), ((65, 129), (64, 128))]
)
def test_what_is_valid_are_mmdets_valid_flags_of_the_unpadded_images(config, sizes):
    model = build(config())
    batch = batch_for(model, sizes, ((), ()))
    view = OneStageView(model, batch, torch.no_grad)
    generator = model.bbox_head.prior_generator
    expected = [
        torch.cat(generator.valid_flags(view.level_sizes, size, device='cpu')) for size in sizes
    ]
    assert torch.equal(view.valid, torch.stack(expected).bool())
    assert view.valid.any(dim=1).all()
    assert view.valid.all() == (sizes[0] == sizes[1])


def test_images_that_tell_no_size_are_valid_everywhere():
    model = build(gfl())
    batch = batch_for(model)
    for sample in batch.samples:
        del sample.img_shape
    assert OneStageView(model, batch, torch.no_grad).valid.all()
    assert batch.image_sizes() == [(128, 160)] * 2


def test_inside_tells_which_positions_start_in_the_image():
    batch = batch_for(build(gfl()))
    inside = batch.inside((4, 5), stride=32)
    assert inside[0].all()
    assert inside[1].tolist() == [[True] * 4 + [False]] * 3 + [[False] * 5]


def test_masks_over_predictions_become_masks_over_positions():
    view = noted(model := build(retina()), batch_for(model))
    mask = torch.zeros(2, 3780, dtype=torch.bool)
    mask[0, 9 * 23 + 4] = True  # level 0, row 1, column 3, anchor 4
    mask[1, 9 * (320 + 12)] = True  # level 1, row 1, column 2
    mask[1, 9 * (320 + 80) : 9 * (320 + 81)] = True  # level 2, all anchors of the first
    found = view.positions(mask)
    assert [m.shape for m in found] == [(2, 16, 20), (2, 8, 10), (2, 4, 5)]
    assert [m.nonzero().tolist() for m in found] == [[[0, 1, 3]], [[1, 1, 2]], [[1, 0, 0]]]


def test_boxes_are_the_annotations_in_pixels():
    view = noted(model := build(gfl()), batch_for(model))
    assert [tuple(b.shape) for b in view.boxes] == [(3, 4), (1, 4)]
    assert view.boxes[1].tolist() == [[30, 20, 100, 85]]
    for sample in view.batch.samples:  # with `boxtype2tensor=False` they keep mmdet's box type
        sample.gt_instances.bboxes = HorizontalBoxes(sample.gt_instances.bboxes)
    typed = OneStageView(model, view.batch)
    assert all(torch.equal(a, b) for a, b in zip(typed.boxes, view.boxes, strict=True))


def test_decoded_boxes_are_those_of_the_heads_own_coder():
    view = noted(model := build(gfl()), batch_for(model))
    head = model.bbox_head
    grids = head.prior_generator.grid_priors(view.level_sizes, device='cpu')
    expected = []
    for stride, grid, boxes in zip((8, 16, 32), grids, view.box_logits, strict=True):
        logits = boxes.permute(0, 2, 3, 1).reshape(2, -1, 36)
        for image in range(2):
            distances = head.integral(logits[image]) * stride
            expected.append(head.bbox_coder.decode(head.anchor_center(grid), distances))
    images = [torch.cat(expected[image::2]) for image in range(2)]
    torch.testing.assert_close(view.decoded_boxes, torch.stack(images))


# -- lazy --------------------------------------------------------------------------------------


def test_a_model_runs_as_deep_as_is_read_and_once():
    model = build(gfl())
    view = OneStageView(model, batch_for(model), torch.no_grad)
    parts = ('backbone', 'bbox_head.gfl_cls', 'bbox_head.gfl_reg')
    calls = count_calls(model, parts)
    _ = view.num_classes, view.strides, view.activation, view.boxes
    assert list(calls.values()) == [0, 0, 0]
    _ = view.features, view.level_sizes, view.valid
    assert list(calls.values()) == [1, 0, 0]
    _ = view.box_logits, view.flat_box_logits, view.decoded_boxes
    assert list(calls.values()) == [1, 0, 3], 'the box tower alone, once per level'
    _ = view.cls_logits, view.flat_cls_logits, view.features
    assert list(calls.values()) == [1, 3, 3]


@pytest.mark.parametrize('config', [gfl, atss, retina, fcos])
def test_what_is_computed_when_read_equals_the_heads_own_forward(config):
    model = build(config())
    batch = batch_for(model)
    expected = model.bbox_head(model.extract_feat(batch.images))
    for first, second in (('cls_logits', 'box_logits'), ('box_logits', 'cls_logits')):
        view = OneStageView(model, batch)
        found = {name: getattr(view, name) for name in (first, second)}
        for name, maps in zip(('cls_logits', 'box_logits'), expected, strict=False):
            assert len(maps) == 3
            assert all(torch.equal(a, b) for a, b in zip(found[name], maps, strict=True)), name


def test_reading_a_student_after_its_loss_runs_nothing_again():
    model = build(gfl())
    calls = count_calls(model)
    view = noted(model, batch_for(model))
    _ = view.features, view.flat_cls_logits, view.flat_box_logits, view.assignment, view.valid
    assert calls == {'backbone': 1, 'bbox_head': 1}


def test_everything_is_computed_inside_the_given_context():
    model = build(gfl())
    view = OneStageView(model, batch_for(model), torch.no_grad)
    assert not view.features[0].requires_grad and not view.cls_logits[0].requires_grad
    view = OneStageView(model, batch_for(model))
    assert view.cls_logits[0].requires_grad


# -- which model ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('config', 'expected'),
    [
        (gfl, ('sigmoid', 1, 'distribution over 9 bins', 'GFLHead')),
        (atss, ('sigmoid', 1, '4 values by DeltaXYWHBBoxCoder', 'ATSSHead')),
        (retina, ('sigmoid', 9, '4 values by DeltaXYWHBBoxCoder', 'RetinaHead')),
        (fcos, ('sigmoid', 1, '4 values by DistancePointBBoxCoder', 'FCOSHead')),
    ],
)
def test_hosts_are_described_by_what_has_to_agree(config, expected):
    info = view_class(model := build(config())).describe(model)
    assert (info.activation, info.num_anchors, info.boxes, info.head) == expected
    assert (info.family, info.strides, info.num_classes) == ('one-stage', (8, 16, 32), 3)


def test_a_softmax_head_is_described_as_one():
    model = build(retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)))
    assert OneStageView.describe(model).activation == 'softmax'
    assert OneStageView(model, batch_for(model)).activation == 'softmax'


def test_of_a_host_whose_head_is_not_known_the_features_are_seen():
    model = build(hybrid_cascade())
    assert view_class(model) is FeatureView
    info = FeatureView.describe(model)
    assert (info.strides, info.num_classes, info.family) == ((8, 16, 32), 3, 'features-only')
    batch = batch_for(model)
    view = FeatureView(model, batch)
    with view.recording():
        losses = model.loss(batch.images, batch.samples)
    assert vars(view)['features'][0].requires_grad  # noted, not computed again
    assert view.own_losses == losses
    expected = batch.inside(view.level_sizes[1], 16)
    assert view.level_masks()[1].equal(expected) and view.valid_at(view.level_sizes[1]).equal(
        expected
    )


def test_something_that_is_no_detector_is_refused():
    with pytest.raises(SetupError, match='no view of a Linear: it has no `backbone` and'):
        view_class(nn.Linear(2, 2))


# -- noting ------------------------------------------------------------------------------------


class Owner:
    """Something with a method."""

    def double(self, x: int) -> int:
        if x < 0:
            raise ValueError('negative')
        return 2 * x


def test_noting_tells_inputs_and_output_and_goes_away():
    owner, notes = Owner(), []
    with watch_calls(owner, 'double', lambda inputs, output: notes.append((inputs, output))):
        assert owner.double(4) == 8
    assert owner.double(5) == 10
    assert notes == [((4,), 8)] and vars(owner) == {}


def test_noting_goes_away_after_an_error():
    owner, notes = Owner(), []
    with (
        pytest.raises(ValueError, match='negative'),
        watch_calls(owner, 'double', lambda *note: notes.append(note)),
    ):
        owner.double(-1)
    assert owner.double(5) == 10 and notes == [] and vars(owner) == {}


def test_noting_the_forward_of_a_module_leaves_its_other_hooks():
    layer, notes, others = nn.Linear(2, 2), [], []
    layer.register_forward_hook(lambda *_: others.append(1))
    with (
        pytest.raises(RuntimeError),
        watch_calls(layer, 'forward', lambda inputs, output: notes.append(output)),
    ):
        out = layer(torch.zeros(1, 2))
        layer(torch.zeros(1, 3))
    layer(torch.zeros(1, 2))
    assert len(notes) == 1 and notes[0] is out
    assert len(others) == 2 and len(layer._forward_hooks) == 1


def test_notes_may_be_nested():
    owner, outer, inner = Owner(), [], []
    with watch_calls(owner, 'double', lambda inputs, output: outer.append(output)):
        with watch_calls(owner, 'double', lambda inputs, output: inner.append(output)):
            owner.double(1)
        owner.double(2)
    assert (outer, inner) == ([2, 4], [2]) and vars(owner) == {}


def test_noting_leaves_what_was_set_on_the_instance_before():
    owner, notes = Owner(), []
    owner.double = lambda x: 3 * x
    with watch_calls(owner, 'double', lambda inputs, output: notes.append(output)):
        assert owner.double(2) == 6
    assert owner.double(2) == 6 and notes == [6]


def test_a_students_notes_go_away_after_an_error_in_its_loss():
    model = build(gfl())
    view = OneStageView(model, batch_for(model))
    with pytest.raises(AttributeError), view.recording():
        model.loss(view.batch.images, [None, None])
    assert 'get_targets' not in vars(model.bbox_head) and not model.bbox_head._forward_hooks


def test_a_batch_cannot_be_changed_by_a_loss():
    with pytest.raises(AttributeError):
        Batch(torch.zeros(1, 3, 8, 8), []).images = None
