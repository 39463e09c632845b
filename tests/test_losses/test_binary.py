"""Binary class distillation and IoU-based box distillation: BCKD."""

import math

import pytest
import torch

from kd_dense import BinaryDistillation, BoxIoUDistillation
from kd_dense.errors import SetupError
from kd_dense.losses import binary_distillation, box_disagreement
from kd_dense.views import OneStageView
from tests.helpers import pairs, two_stage
from tests.helpers.pairs import HOSTS, build, pair, retina

LOSSES = (BinaryDistillation, BoxIoUDistillation)
SMALL = (((10.0, 12.0, 22.0, 25.0),), ((40.0, 44.0, 55.0, 58.0),))  # one level has positives


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_binary(s: float, t: float) -> float:
    p_s, p_t = sigmoid(s), sigmoid(t)
    return abs(p_t - p_s) * -(p_t * math.log(p_s) + (1 - p_t) * math.log(1 - p_s))


def slow_giou(a: list[float], b: list[float]) -> float:
    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    shared = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    hull = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = area(a) + area(b) - shared
    return shared / union - (hull - union) / hull


# -- the functions -----------------------------------------------------------------------------


def test_the_function_equals_a_slow_loop_and_is_zero_at_equality():
    s, t = logits(6, 3), logits(6, 3, seed=1)
    expected = [
        [slow_binary(*pair) for pair in zip(*rows, strict=True)]
        for rows in zip(s.tolist(), t.tolist(), strict=True)
    ]
    torch.testing.assert_close(binary_distillation(s, t), torch.tensor(expected))
    assert not binary_distillation(t, t).any()


def test_a_literal():
    # p_s = 1/2, p_t = 3/4: a quarter of ln 2
    value = binary_distillation(torch.zeros(1), torch.tensor([math.log(3.0)]))
    assert value.item() == pytest.approx(math.log(2.0) / 4)


@pytest.mark.parametrize('detach_weight', [False, True])
def test_gradients(detach_weight):
    s, t = logits(5, 3, dtype=torch.float64).requires_grad_(), logits(5, 3, seed=1).double()
    t.requires_grad_()
    if not detach_weight:
        assert torch.autograd.gradcheck(lambda x: binary_distillation(x, t), s)
    binary_distillation(s, t, detach_weight).sum().backward()
    assert t.grad is None
    p_s, p_t = s.detach().sigmoid(), t.detach().sigmoid()
    if detach_weight:
        torch.testing.assert_close(s.grad, (p_t - p_s).abs() * (p_s - p_t))
    else:
        assert not torch.allclose(s.grad, (p_t - p_s).abs() * (p_s - p_t))


def test_extremes_and_half_precision_are_finite_float32():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        s = torch.tensor([100.0, -100.0, 100.0], dtype=dtype, requires_grad=True)
        value = binary_distillation(s, torch.tensor([-100.0, 100.0, 100.0], dtype=dtype))
        value.sum().backward()
        assert value.dtype == torch.float32 and value.isfinite().all() and s.grad.isfinite().all()


def test_boxes_disagree_by_their_giou():
    a = torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 3.0, 9.0, 12.0], [0.0, 0.0, 4.0, 4.0]])
    b = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 1.0, 14.0, 8.0], [8.0, 8.0, 9.0, 10.0]])
    b.requires_grad_()
    expected = [1 - slow_giou(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    torch.testing.assert_close(box_disagreement(a, b), torch.tensor(expected))
    assert not box_disagreement(a, b).requires_grad
    x = a.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: box_disagreement(x, b[1:].double()), x[1:])


def test_other_shapes_are_refused():
    with pytest.raises(SetupError, match=r'\(2, 3\) from the student and \(2, 4\)'):
        binary_distillation(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(SetupError, match=r'\(2, 4\) from the student and \(3, 4\)'):
        box_disagreement(torch.zeros(2, 4), torch.zeros(3, 4))


# -- the losses --------------------------------------------------------------------------------


def slow_loss(student, teacher, loss) -> float:
    s, t = student.flat_cls_logits.detach(), teacher.flat_cls_logits
    ours, theirs = student.decoded_boxes.detach(), teacher.decoded_boxes
    levels = [int(level.any()) for level in student.positions(student.positives)]
    total = 0.0
    for n, p in student.valid.nonzero().tolist():
        if loss.variant == 'reference' and not levels[int(student.level_index[p])]:
            continue
        both = list(zip(s[n, p].tolist(), t[n, p].tolist(), strict=True))
        if isinstance(loss, BinaryDistillation):
            total += sum(slow_binary(*each) for each in both)
        else:
            weight = max(abs(sigmoid(a) - sigmoid(b)) for a, b in both)
            total += weight * (1 - slow_giou(ours[n, p].tolist(), theirs[n, p].tolist()))
    return total / max(int(student.positives.sum()), 1)


@pytest.mark.parametrize('variant', ['paper', 'reference'])
@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('kind', LOSSES)
def test_the_loss_equals_a_slow_loop(kind, host, variant):
    student, teacher = pair(HOSTS[host](), boxes=SMALL)
    loss = kind(variant=variant)
    value = loss(student, teacher).item()
    assert value > 0.1
    assert value == pytest.approx(slow_loss(student, teacher, loss), rel=1e-3)
    if variant == 'reference':
        assert value < kind()(student, teacher).item()


@pytest.mark.parametrize('kind', LOSSES)
def test_the_loss_is_zero_where_both_views_show_the_same(kind):
    student, _ = pair()
    same = OneStageView(student.model, student.batch, torch.no_grad)
    assert abs(kind()(student, same).item()) < 1e-5


def test_each_loss_teaches_its_own_branch():
    student, teacher = pair()
    head = student.model.bbox_head
    BoxIoUDistillation()(student, teacher).backward()
    assert head.gfl_reg.weight.grad.abs().sum() > 0 and head.gfl_cls.weight.grad is None
    head.gfl_reg.weight.grad = None
    student, teacher = pair()
    head = student.model.bbox_head
    BinaryDistillation()(student, teacher).backward()
    assert head.gfl_cls.weight.grad.abs().sum() > 0 and head.gfl_reg.weight.grad is None
    assert all(p.grad is None for p in teacher.model.parameters())


@pytest.mark.parametrize('kind', LOSSES)
def test_no_object_is_needed(kind):
    student, teacher = pair(boxes=((), ()))
    value = kind()(student, teacher)
    assert value.item() > 0.1
    nothing = kind(variant='reference')(student, teacher)
    nothing.backward()
    assert nothing.item() == 0


@pytest.mark.parametrize('kind', LOSSES)
def test_padding_does_not_count(kind):
    student, teacher = pair()
    before = kind()(student, teacher)
    teacher.flat_cls_logits = torch.where(student.valid[..., None], teacher.flat_cls_logits, 9.0)
    teacher.decoded_boxes = torch.where(student.valid[..., None], teacher.decoded_boxes, 0.0)
    assert torch.equal(before, kind()(student, teacher))


def test_decoded_boxes_are_those_that_the_hosts_predict():
    for name, host in HOSTS.items():
        config = host()
        config['test_cfg'] = dict(nms_pre=-1, score_thr=0.0, min_bbox_size=0, max_per_img=10_000)
        student, _ = pair(config)
        head = student.model.bbox_head
        maps = head(student.features)
        metas = [
            dict(sample.metainfo, img_shape=(10_000, 10_000)) for sample in student.batch.samples
        ]
        results = head.predict_by_feat(
            *maps, batch_img_metas=metas, cfg=head.test_cfg or None, rescale=False, with_nms=False
        )
        decoded = student.decoded_boxes.detach()
        for image, found in enumerate(results):
            every = {tuple(round(v, 2) for v in box) for box in decoded[image].tolist()}
            their = [box for box in found.bboxes.tolist() if min(box) > 0]
            assert len(their) > 20, name
            missing = [b for b in their if tuple(round(v, 2) for v in b) not in every]
            assert len(missing) < 0.02 * len(their), (name, missing[:3])  # rounding at a border


def test_what_does_not_fit_is_refused():
    softmax = build(retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)))
    for kind in LOSSES:
        assert kind().demands(build(retina())) == []
        assert kind().demands(softmax) == [
            'it compares classes one by one, and this head scores them by softmax'
        ]
        (found,) = kind().demands(two_stage.build())
        assert "found a FasterRCNN; choose 'rpn' or 'roi'" in found
    with pytest.raises(SetupError, match="variant is 'own'"):
        BinaryDistillation(variant='own')


def test_boxes_of_other_encodings_can_be_compared():
    info = [pairs.build(HOSTS[name]()) for name in ('gfl', 'atss')]
    losses = dict(box=BoxIoUDistillation())
    pairs.check_models(info[0], info[1], losses)
