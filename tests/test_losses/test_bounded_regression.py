"""Teacher-bounded regression: equal to its formula, decided box by box, in one encoding."""

import pytest
import torch
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

from kd_dense import MODELS, BoundedRegression
from kd_dense.errors import SetupError
from kd_dense.losses import bounded_squared_error
from kd_dense.losses.bounded_regression import Encoding, deltas_of_class, encode_again
from tests.helpers import pairs, two_stage
from tests.helpers.models import gfl


def boxes(seed: int, count: int = 7, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slow(s, t, y, margin: float = 0.0) -> list[float]:
    """Box by box, as the paper writes it."""
    rows = []
    for a, b, c in zip(s.tolist(), t.tolist(), y.tolist(), strict=True):
        ours = sum((p - q) ** 2 for p, q in zip(a, c, strict=True))
        theirs = sum((p - q) ** 2 for p, q in zip(b, c, strict=True))
        rows.append(ours if ours + margin > theirs else 0.0)
    return rows


# -- the functions -----------------------------------------------------------------------------


@pytest.mark.parametrize('margin', [0.0, 2.0, -2.0])
def test_the_error_equals_a_slow_loop(margin):
    s, t, y = boxes(0), boxes(1), boxes(2)
    found = bounded_squared_error(s, t, y, margin)
    torch.testing.assert_close(found, torch.tensor(slow(s, t, y, margin)))


def test_the_bound_decides_for_each_box_alone():
    y = torch.zeros(3, 4)
    s = torch.tensor([[1.0, 0, 0, 0], [3, 0, 0, 0], [1, 0, 0, 0]])
    t = torch.tensor([[2.0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]])
    # better than the teacher; worse; as good, which is not better by more than the margin
    assert bounded_squared_error(s, t, y).tolist() == [0.0, 9.0, 0.0]
    assert bounded_squared_error(s, t, y, margin=0.1).tolist() == [0.0, 9.0, 1.0]
    assert bounded_squared_error(s, t, y, margin=3.5).tolist() == [1.0, 9.0, 1.0]


def test_only_boxes_beyond_the_bound_get_a_gradient_and_the_teacher_none():
    s = torch.tensor([[1.0, 0, 0, 0], [3, 0, 0, 0]], requires_grad=True)
    t = torch.tensor([[2.0, 0, 0, 0], [2, 0, 0, 0]], requires_grad=True)
    bounded_squared_error(s, t, torch.zeros(2, 4)).sum().backward()
    assert s.grad.tolist() == [[0, 0, 0, 0], [6, 0, 0, 0]] and t.grad is None


def test_gradients_are_those_of_finite_differences():
    s, t, y = (boxes(seed, dtype=torch.float64) for seed in (0, 1, 2))
    assert torch.autograd.gradcheck(lambda x: bounded_squared_error(x, t, y), s.requires_grad_())


def test_half_precision_and_strided_boxes_are_compared_in_float32():
    s, t, y = boxes(0).half() * 100, boxes(1).half() * 200, boxes(2).half()
    found = bounded_squared_error(s, t.T.contiguous().T, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, bounded_squared_error(s.float(), t.float(), y.float()))
    extreme = bounded_squared_error(torch.full((1, 4), 100.0), -torch.full((1, 4), 100.0), y[:1])
    assert torch.isfinite(extreme).all()


def test_no_boxes_give_nothing_that_back_propagates():
    s = torch.zeros(0, 4, requires_grad=True)
    found = bounded_squared_error(s, torch.zeros(0, 4), torch.zeros(0, 4))
    found.sum().backward()
    assert found.shape == (0,)


def test_different_shapes_are_refused():
    with pytest.raises(SetupError, match=r'one shape; got \(7, 4\) from the student, \(6, 4\) fr'):
        bounded_squared_error(boxes(0), boxes(1, 6), boxes(2))


def test_deltas_are_those_of_the_boxes_own_class():
    deltas = torch.arange(24.0).reshape(2, 12)
    labels = torch.tensor([2, 0])
    assert deltas_of_class(deltas, labels).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    agnostic = deltas_of_class(deltas[:, :4], labels)
    assert agnostic.tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]


def coder(stds: tuple[float, ...], means: tuple[float, ...] = (0.0,) * 4) -> DeltaXYWHBBoxCoder:
    return DeltaXYWHBBoxCoder(target_means=means, target_stds=stds)


def test_deltas_of_another_encoding_tell_the_same_boxes():
    references = torch.tensor([[10.0, 20, 50, 60], [0, 0, 30, 90]])
    other = references + torch.tensor([3.0, -2, 8, 5])
    wanted = references + torch.tensor([[4.0, 3, -6, 2], [1, 1, 5, -8]])
    old = Encoding(references, coder((0.1, 0.1, 0.2, 0.2)))
    for new in (
        Encoding(references, coder((0.5, 1.0, 2.0, 0.3), (0.1, -0.2, 0.05, 0.0))),
        Encoding(other, old.coder),
    ):
        deltas = encode_again(old.coder.encode(references, wanted), old, new)
        torch.testing.assert_close(new.coder.decode(new.references, deltas), wanted)
        assert not torch.allclose(deltas, old.coder.encode(references, wanted))


def test_the_same_encoding_leaves_deltas_untouched():
    references, deltas = torch.tensor([[10.0, 20, 50, 60]]), boxes(0, 1)
    old, new = (Encoding(references, coder((0.1, 0.1, 0.2, 0.2))) for _ in range(2))
    assert encode_again(deltas, old, new) is deltas


# -- the loss ----------------------------------------------------------------------------------


def roi_boxes(student, teacher, agnostic: bool = False) -> tuple:
    """Deltas of the positive proposals for their own class, by hand, and targets."""
    rows = [[], [], []]
    labels, _, targets = student.roi_targets
    for r, label in enumerate(labels.tolist()):
        if label < 3:
            own = slice(0, 4) if agnostic else slice(4 * label, 4 * label + 4)
            rows[0].append(student.roi_deltas[r, own].detach())
            rows[1].append(teacher.roi_deltas[r, own])
            rows[2].append(targets[r])
    return tuple(torch.stack(r) for r in rows)


@pytest.mark.parametrize('agnostic', [False, True])
def test_the_loss_on_proposals_equals_a_slow_loop(agnostic):
    config = two_stage.faster_rcnn(reg_class_agnostic=agnostic)
    student, teacher = two_stage.pair(config)
    s, t, y = roi_boxes(student, teacher, agnostic)
    errors = slow(s, t, y, 0.01)
    assert len(errors) > 3 and 0 < sum(e > 0 for e in errors) < len(errors)
    value = BoundedRegression('roi', margin=0.01)(student, teacher).item()
    assert value == pytest.approx(sum(errors) / len(student.proposals), rel=1e-4)


def test_the_loss_on_anchors_equals_a_slow_loop():
    student, teacher = two_stage.pair()
    chosen = student.positives
    s, t = student.flat_box_logits[chosen].detach(), teacher.flat_box_logits[chosen]
    y = student.assignment.box_targets[chosen]
    margin = ((t - y).square().sum(1) - (s - y).square().sum(1)).median().item() + 1e-4
    errors = slow(s, t, y, margin)
    assert 0 < sum(e > 0 for e in errors) < len(errors)
    sampled = (student.assignment.label_weights > 0) & student.valid
    value = BoundedRegression('rpn', margin=margin)(student, teacher).item()
    assert value == pytest.approx(sum(errors) / int(sampled.sum()), rel=1e-4)


def test_one_stage_heads_divide_by_their_positives():
    student, teacher = pairs.pair(pairs.retina())
    chosen = student.positives
    s, t = student.flat_box_logits[chosen].detach(), teacher.flat_box_logits[chosen]
    errors = slow(s, t, student.assignment.box_targets[chosen])
    value = BoundedRegression('dense')(student, teacher).item()
    assert value == pytest.approx(sum(errors) / len(errors), rel=1e-4) and value > 0


def test_heads_that_are_told_boxes_are_compared_in_deltas():
    student, teacher = pairs.pair(pairs.atss())
    chosen = student.positives
    s, t = student.flat_box_logits[chosen].detach(), teacher.flat_box_logits[chosen]
    anchors = student.assignment.anchors[chosen]
    targets = student.head.bbox_coder.encode(anchors, student.assignment.box_targets[chosen])
    value = BoundedRegression('dense')(student, teacher).item()
    assert value == pytest.approx(sum(slow(s, t, targets)) / len(s), rel=1e-4)


def test_a_second_stage_told_boxes_is_compared_in_deltas():
    decoded = dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss', loss_weight=1.0))
    student, teacher = two_stage.pair(two_stage.faster_rcnn(**decoded), two_stage.faster_rcnn())
    s, t, y = roi_boxes(student, teacher)
    y = student.box_head.bbox_coder.encode(student.proposals[student.roi_positives, 1:], y)
    value = BoundedRegression('roi')(student, teacher).item()
    assert value == pytest.approx(sum(slow(s, t, y)) / len(student.proposals), rel=1e-4)


def test_a_teacher_with_other_stds_is_compared_in_the_students():
    same, other = two_stage.faster_rcnn(), two_stage.faster_rcnn(stds=(0.2, 0.3, 0.4, 0.1))
    student, teacher = two_stage.pair(same, other)
    s, t, y = roi_boxes(student, teacher)
    chosen = student.proposals[student.roi_positives, 1:]
    told = teacher.box_head.bbox_coder.decode(chosen, t)
    t_ours = student.box_head.bbox_coder.encode(chosen, told)
    assert not torch.allclose(t, t_ours, atol=0.05)
    errors, naive = slow(s, t_ours, y), slow(s, t, y)
    assert sum(errors) != pytest.approx(sum(naive), rel=1e-3)
    value = BoundedRegression('roi')(student, teacher).item()
    assert value == pytest.approx(sum(errors) / len(student.proposals), rel=1e-4)


def test_a_class_agnostic_teacher_bounds_a_class_specific_student():
    agnostic = two_stage.faster_rcnn(reg_class_agnostic=True)
    student, teacher = two_stage.pair(two_stage.faster_rcnn(), agnostic)
    assert (student.roi_deltas.shape[1], teacher.roi_deltas.shape[1]) == (12, 4)
    labels, _, targets = (v[student.roi_positives] for v in student.roi_targets)
    s = student.roi_deltas[student.roi_positives].detach().reshape(len(labels), 3, 4)
    s = torch.stack([row[label] for row, label in zip(s, labels, strict=True)])
    errors = slow(s, teacher.roi_deltas[student.roi_positives], targets)
    value = BoundedRegression('roi')(student, teacher).item()
    assert value == pytest.approx(sum(errors) / len(student.proposals), rel=1e-4)


def test_anchors_of_another_size_are_allowed_for():
    bigger = pairs.atss()
    bigger['bbox_head']['anchor_generator']['octave_base_scale'] = 6
    model, other = pairs.build(pairs.atss(), 0), pairs.build(bigger, 1)
    student = pairs.noted(model, pairs.batch_for(model))
    teacher = type(student)(other, student.batch, torch.no_grad)
    chosen = student.positives
    ours, theirs = (v.anchors.expand(2, -1, -1)[chosen] for v in (student, teacher))
    t = other.bbox_head.bbox_coder.decode(theirs, teacher.flat_box_logits[chosen])
    t = model.bbox_head.bbox_coder.encode(ours, t)
    y = model.bbox_head.bbox_coder.encode(ours, student.assignment.box_targets[chosen])
    errors = slow(student.flat_box_logits[chosen].detach(), t, y)
    value = BoundedRegression('dense')(student, teacher).item()
    assert value == pytest.approx(sum(errors) / len(errors), rel=1e-3)


@pytest.mark.parametrize('part', ['rpn', 'roi'])
def test_without_positives_the_loss_is_zero_and_back_propagates(part):
    student, teacher = two_stage.pair(boxes=((), ()))
    value = BoundedRegression(part)(student, teacher)
    value.backward()
    assert value.item() == 0


def test_its_weight_is_nu():
    assert BoundedRegression('roi').weight == 0.5


def test_unknown_parts_and_heads_without_deltas_are_refused():
    with pytest.raises(SetupError, match="part is 'neck'; choose one of 'rpn', 'roi', 'dense'"):
        MODELS.build(dict(type='kd_dense.BoundedRegression', part='neck'))
    for config, name in ((gfl(), 'GFLHead'), (pairs.fcos(), 'FCOSHead')):
        (found,) = BoundedRegression('dense').demands(pairs.build(config))
        assert found.endswith(f'(DeltaXYWHBBoxCoder), found {name}')
    for config in (pairs.retina(), pairs.atss()):
        assert BoundedRegression('dense').demands(pairs.build(config)) == []
    for part in ('rpn', 'roi'):
        assert BoundedRegression(part).demands(two_stage.build()) == []
    without = two_stage.build()
    without.roi_head.bbox_head.with_reg = False  # as in Grid R-CNN
    (found,) = BoundedRegression('roi').demands(without)
    assert found.endswith('found Shared2FCBBoxHead')
