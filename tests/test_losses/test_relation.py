"""Relation distillation: DIST."""

import numpy as np
import pytest
import torch

from kd_dense import RelationDistillation
from kd_dense.errors import SetupError
from kd_dense.losses import correlation
from kd_dense.losses.relation import SOMETHING
from tests.helpers import pairs, segmentation, two_stage


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * values).softmax(dim=-1)


# -- the function ------------------------------------------------------------------------------


def test_the_correlation_is_numpys():
    s, t = scores(6, 5), scores(6, 5, seed=1)
    for dim, rows in ((1, zip(s, t, strict=True)), (0, zip(s.T, t.T, strict=True))):
        expected = [np.corrcoef(a.numpy(), b.numpy())[0, 1] for a, b in rows]
        torch.testing.assert_close(
            correlation(s, t, dim), torch.tensor(expected), rtol=2e-3, atol=1e-5
        )


def test_scale_and_offset_go_unnoticed():
    s, t = scores(6, 5), scores(6, 5, seed=1)
    torch.testing.assert_close(
        correlation(3 * s + 1, t, 1), correlation(s, t, 1), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(correlation(s, s, 1), torch.ones(6).double(), rtol=1e-4, atol=0)


def test_what_is_constant_correlates_with_nothing_and_has_a_finite_gradient():
    s, t = torch.full((2, 4), 0.25, requires_grad=True), scores(2, 4, seed=1).float()
    value = correlation(s, t, 1)
    value.sum().backward()
    assert not value.any() and s.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences_and_the_teacher_gets_none():
    s, t = scores(4, 3).requires_grad_(), scores(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: correlation(x, t, 1), s)
    assert torch.autograd.gradcheck(lambda x: correlation(x, t, 0), s)
    correlation(s, t, 0).sum().backward()
    assert t.grad is None


# -- the loss ----------------------------------------------------------------------------------


def slow(s: torch.Tensor, t: torch.Tensor, beta: float, gamma: float) -> float:
    s, t = s.detach().double().numpy(), t.double().numpy()
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    return beta * rows + gamma * columns


def rows_of(part: str) -> tuple:
    """Both views and the scores that are compared, found here another way."""
    if part == 'roi':
        student, teacher = two_stage.pair()
        chosen = student.roi_targets.label_weights > 0
        maps = (view.roi_cls_logits[chosen].softmax(-1) for view in (student, teacher))
    elif part == 'dense':
        student, teacher = pairs.pair()
        s, t = (view.flat_cls_logits.sigmoid() for view in (student, teacher))
        chosen = student.valid & (torch.stack([s, t]).amax(dim=(0, -1)) > SOMETHING)
        maps = s[chosen], t[chosen]
    else:
        student, teacher = segmentation.views(*segmentation.pair())
        logits = student.seg_logits, teacher.seg_logits
        valid = student.valid_at(tuple(logits[0].shape[-2:]))
        assert not valid.all()
        maps = (x.movedim(1, -1)[valid].softmax(-1) for x in logits)
    return student, teacher, *maps


@pytest.mark.parametrize('part', ['decode', 'roi', 'dense'])
def test_the_loss_equals_a_slow_loop(part):
    student, teacher, s, t = rows_of(part)
    assert len(s) > 40
    value = RelationDistillation(part, beta=2.0, gamma=0.5)(student, teacher).item()
    assert value > 0.1
    assert value == pytest.approx(slow(s, t, 2.0, 0.5), rel=2e-3)


def test_auxiliary_heads_and_temperature():
    student, teacher = segmentation.views(*segmentation.pair())
    size = tuple(student.aux_logits[0].shape[-2:])
    valid = student.valid_at(size)
    s, t = (
        (view.aux_logits[0].movedim(1, -1)[valid] / 3).softmax(-1) for view in (student, teacher)
    )
    value = RelationDistillation('auxiliary', temperature=3.0)(student, teacher).item()
    assert value == pytest.approx(slow(s, t, 1.0, 1.0), rel=2e-3)


def test_a_softmax_one_stage_head():
    config = pairs.retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    student, teacher = pairs.pair(config)
    chosen = student.sampled
    s, t = (view.flat_cls_logits[chosen].softmax(-1) for view in (student, teacher))
    value = RelationDistillation('dense')(student, teacher).item()
    assert value == pytest.approx(slow(s, t, 1.0, 1.0), rel=2e-3)


@pytest.mark.parametrize('part', ['decode', 'roi', 'dense'])
def test_the_student_learns_and_the_teacher_does_not(part):
    student, teacher, *_ = rows_of(part)
    RelationDistillation(part)(student, teacher).backward()
    head = {
        'decode': lambda m: m.decode_head.conv_seg,
        'roi': lambda m: m.roi_head.bbox_head.fc_cls,
        'dense': lambda m: m.bbox_head.gfl_cls,
    }[part](student.model)
    assert head.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.model.parameters())


def test_nothing_to_compare_is_zero_and_back_propagates():
    raw = segmentation.raw_batch()
    for sample in raw['data_samples']:
        sample.gt_sem_seg.data.fill_(255)
    student, teacher = segmentation.views(*segmentation.pair(), raw)
    value = RelationDistillation()(student, teacher)
    value.backward()
    assert value.item() == 0


def test_a_teachers_map_of_another_size_is_brought_to_the_students():
    student, teacher = segmentation.views(*segmentation.pair())
    before = RelationDistillation()(student, teacher).item()
    teacher.seg_logits = torch.nn.functional.interpolate(
        teacher.seg_logits, scale_factor=2, mode='nearest'
    )
    assert RelationDistillation()(student, teacher).item() == pytest.approx(before, rel=1e-3)


def test_what_does_not_fit_is_refused():
    detector, segmentor = pairs.build(pairs.gfl()), segmentation.build(segmentation.segmentor())
    assert RelationDistillation('dense').demands(detector) == []
    assert RelationDistillation('decode').demands(segmentor) == []
    assert RelationDistillation('roi').demands(two_stage.build()) == []
    (found,) = RelationDistillation('decode').demands(detector)
    assert found == "part 'decode' is one of segmentors, found one-stage; 'dense' or 'roi'"
    (found,) = RelationDistillation('roi').demands(detector)
    assert "found a GFL; choose 'dense'" in found
    for options, message in (
        (dict(part='head'), "part is 'head'; choose one of 'decode', 'auxiliary', 'roi', 'dense'"),
        (dict(temperature=0), 'temperature is 0'),
        (dict(beta=-1.0), r'beta is -1\.0 and gamma 1\.0; neither may be negative'),
    ):
        with pytest.raises(SetupError, match=message):
            RelationDistillation(**options)
