"""Merit-based distillation: by hand, as loops, and exactly in the place of the own class loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from kd_dense import MODELS, MeritBased, TemperedCrossEntropy
from kd_dense.errors import SetupError
from kd_dense.losses import binary_merit, merit_mixture, sigmoid_kl, softmax_kl
from tests.helpers import pairs, segmentation, two_stage
from tests.helpers.models import gfl

S = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -0.5]])
T = torch.tensor([[2.0, 0.5, -1.0], [0.2, 1.0, 0.1]])
LABELS = torch.tensor([0, 2])  # the teacher is right about the first, wrong about the second


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def by_hand(kind: str, variant: str, temperature: float = 1.0) -> tuple[list[float], float]:
    """The shares, and (1 - a) CE + a T^2 KL of both rows, added, in plain Python."""
    shares, total = [], 0.0
    for s, t, y in zip(S.tolist(), T.tolist(), LABELS.tolist(), strict=True):
        if variant == 'reference':
            s, t = [v / temperature for v in s], [v / temperature for v in t]
        right = max(range(3), key=t.__getitem__) == y
        a = {
            'delta': 0.6 if right else 0.4,
            'hard': 0.5 if right else 0.0,
            'soft': softmax(t)[y],
        }[kind]
        p, q = (softmax([v / temperature for v in each]) for each in (t, s))
        kl = sum(b * math.log(b / c) for b, c in zip(p, q, strict=True))
        total += (1 - a) * -math.log(softmax(s)[y]) + a * temperature**2 * kl
        shares.append(a)
    return shares, total


# -- the functions -------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['delta', 'hard', 'soft'])
@pytest.mark.parametrize('variant', ['paper', 'reference'])
@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_two_rows_of_three_classes_by_hand(kind, variant, temperature):
    a, hard, soft = merit_mixture(S, T, LABELS, kind, temperature, variant=variant)
    shares, expected = by_hand(kind, variant, temperature)
    assert a.tolist() == pytest.approx(shares)
    assert ((1 - a) * hard + a * soft).sum().item() == pytest.approx(expected, rel=1e-5)


def test_a_literal():
    # the teacher says 3/4 of the truth, the student 1/2: 1/4 ln 2 + 3/4 (3/4 ln 3/2 + 1/4 ln 1/2)
    s, t = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    a, hard, soft = merit_mixture(s, t, torch.tensor([0]))
    assert ((1 - a) * hard + a * soft).item() == pytest.approx(0.2713958)


def test_both_variants_agree_at_temperature_one_and_nowhere_else():
    for temperature in (1.0, 4.0):
        paper, reference = (
            torch.stack(merit_mixture(S, T, LABELS, 'soft', temperature, variant=v))
            for v in ('paper', 'reference')
        )
        assert torch.allclose(paper, reference) == (temperature == 1)


def test_a_teacher_that_is_always_right_without_delta_is_hintons_with_a_half():
    a, hard, soft = merit_mixture(S, T, T.argmax(1), 'delta', 2.0, delta=0.0)
    expected = 0.5 * F.cross_entropy(S, T.argmax(1), reduction='none') + 0.5 * softmax_kl(S, T, 2.0)
    torch.testing.assert_close((1 - a) * hard + a * soft, expected)


def test_the_binary_form_equals_a_loop():
    truth = torch.tensor([[True, False, False], [False, False, True]])
    for kind in ('delta', 'hard', 'soft'):
        value = binary_merit(S, T, truth, kind, 2.0)
        for i in range(2):
            for c in range(3):
                p = 1 / (1 + math.exp(-T[i, c].item()))
                trusted = p if truth[i, c] else 1 - p
                right = (p > 0.5) == bool(truth[i, c])
                a = {'delta': 0.6 if right else 0.4, 'hard': 0.5 * right, 'soft': trusted}[kind]
                expected = a * sigmoid_kl(S[i, c], T[i, c], 2.0).item()
                assert value[i, c].item() == pytest.approx(expected, rel=1e-5)


def test_the_binary_form_of_the_reference_divides_twice():
    truth = T > 0.3
    torch.testing.assert_close(
        binary_merit(S, T, truth, temperature=3.0, variant='reference'),
        binary_merit(S / 3, T / 3, truth, temperature=3.0),
    )


def test_no_gradient_reaches_the_teacher_and_none_the_student_through_the_merit():
    s, t = S.clone().requires_grad_(), T.clone().requires_grad_()
    a, hard, soft = merit_mixture(s, t, LABELS, 'soft')
    assert not a.requires_grad
    (hard.sum() + soft.sum() + binary_merit(s, t, T > 0).sum()).backward()
    assert t.grad is None and s.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    s, t = S.double().requires_grad_(), T.double()

    def mixture(x):
        a, hard, soft = merit_mixture(x, t, LABELS, 'soft', 3.0, variant='reference')
        return ((1 - a) * hard + a * soft).sum()

    assert torch.autograd.gradcheck(mixture, s)
    assert torch.autograd.gradcheck(lambda x: binary_merit(x, t, T > 0, 'delta', 3.0), s)


def test_large_and_half_precision_logits_stay_finite():
    s = (S.sign() * 100).bfloat16().requires_grad_()
    a, hard, soft = merit_mixture(s, -s.detach(), LABELS)
    ((1 - a) * hard + a * soft + binary_merit(s, -s.detach(), S > 0).sum(1)).sum().backward()
    assert hard.dtype == torch.float32 and s.grad.isfinite().all()


def test_logits_of_different_shapes_are_refused():
    with pytest.raises(SetupError, match=r'\(2, 3\) from the student'):
        merit_mixture(S, T[:, :2], LABELS)


# -- exactly in the place of the own loss --------------------------------------------------------


def loop_of_pixels(ours, theirs, **options) -> torch.Tensor:
    """The mixture over all pixels with a label, divided as mmseg divides: by all of them."""
    size = ours.labels.shape[-2:]
    s, t = (F.interpolate(v.seg_logits.float(), size, mode='bilinear') for v in (ours, theirs))
    total = 0.0
    for n in range(len(s)):
        for y in range(0, size[0]):
            known = ours.labels[n, y] != 255
            rows = [m[n, :, y].T[known] for m in (s, t)]
            a, hard, soft = merit_mixture(*rows, ours.labels[n, y][known], **options)
            total = total + ((1 - a) * hard + a * soft).sum()
    return total / ours.labels.numel()


@pytest.mark.parametrize('variant', ['paper', 'reference'])
@pytest.mark.parametrize('kind', ['delta', 'hard', 'soft'])
def test_of_a_segmentor_the_own_loss_and_ours_add_up_to_the_mixture(kind, variant):
    ours, theirs = segmentation.views(*segmentation.pair())
    value = MeritBased(kind=kind, temperature=4, variant=variant)(ours, theirs)
    expected = loop_of_pixels(ours, theirs, kind=kind, temperature=4.0, variant=variant)
    torch.testing.assert_close(ours.task_loss() + value, expected)


@pytest.mark.parametrize('loss', [dict(loss_weight=0.7), dict(avg_non_ignore=True)])
def test_the_hosts_own_weight_and_divisor_are_taken_over(loss):
    decode = dict(type='CrossEntropyLoss') | loss
    config = segmentation.segmentor(loss_decode=decode)
    ours, theirs = segmentation.views(*segmentation.pair(config, config))
    total = loop_of_pixels(ours, theirs) * loss.get('loss_weight', 1.0)
    if 'avg_non_ignore' in loss:
        total = total * ours.labels.numel() / (ours.labels != 255).sum()
    torch.testing.assert_close(ours.task_loss() + MeritBased()(ours, theirs), total)


def test_a_teacher_that_is_always_wrong_leaves_the_own_loss_bit_for_bit():
    student, teacher = segmentation.pair()
    ours, theirs = segmentation.views(student, teacher)
    size = ours.seg_logits.shape[-2:]
    theirs.seg_logits = torch.zeros(len(ours.labels), 4, *size)
    theirs.seg_logits[:, 3] = 9.0  # a class that no pixel has
    ours.seg_logits = F.pad(ours.seg_logits, (0, 0, 0, 0, 0, 1))
    value = MeritBased(kind='hard', temperature=4)(ours, theirs)
    assert value.item() == 0 and torch.equal(ours.task_loss() + value, ours.task_loss())


def test_of_proposals_the_own_loss_and_ours_add_up_to_the_mixture():
    ours, theirs = two_stage.pair()
    value = MeritBased(part='roi', kind='delta', temperature=2)(ours, theirs)
    chosen = ours.roi_sampled
    a, hard, soft = merit_mixture(
        ours.roi_cls_logits[chosen],
        theirs.roi_cls_logits[chosen],
        ours.roi_targets.labels[chosen],
        'delta',
        2.0,
    )
    expected = ((1 - a) * hard + a * soft).mean()
    torch.testing.assert_close(ours.own_loss('loss_cls') + value, expected)


def test_a_share_of_the_own_loss_is_the_share_of_the_mixture():
    config = segmentation.distiller(dict(merit=dict(type='kd_dense.MeritBased')))
    sums = []
    for weight in (1.0, 0.5):
        torch.manual_seed(0)
        model = MODELS.build(config | dict(own_weight=weight))
        model.init_weights()
        data = model.data_preprocessor(segmentation.raw_batch(), True)
        out = model.train()(**data, mode='loss')
        sums.append(out['decode.loss_ce'] + out['loss_kd_merit'])
    torch.testing.assert_close(sums[1], sums[0] * 0.5)


def test_labels_at_a_temperature_take_the_place_of_the_own_loss():
    ours, theirs = segmentation.views(*segmentation.pair())
    logits = F.interpolate(ours.seg_logits, ours.labels.shape[-2:], mode='bilinear')
    value = TemperedCrossEntropy(temperature=10)(ours, theirs)
    total = F.cross_entropy(logits / 10, ours.labels, ignore_index=255, reduction='sum')
    torch.testing.assert_close(ours.task_loss() + value, total / ours.labels.numel())
    assert TemperedCrossEntropy(temperature=1)(ours, theirs).item() == 0
    ours, theirs = two_stage.pair()
    value = TemperedCrossEntropy(temperature=10, part='roi')(ours, theirs)
    chosen = ours.roi_sampled
    expected = F.cross_entropy(ours.roi_cls_logits[chosen] / 10, ours.roi_targets.labels[chosen])
    torch.testing.assert_close(ours.own_loss('loss_cls') + value, expected)


# -- added ---------------------------------------------------------------------------------------


def test_added_to_a_segmentors_loss_it_is_the_mean_over_the_pixels_with_a_label():
    ours, theirs = segmentation.views(*segmentation.pair())
    value = MeritBased(kind='hard', mix='add', temperature=2)(ours, theirs)
    size = ours.labels.shape[-2:]
    known = ours.labels != 255
    s, t = (
        F.interpolate(v.seg_logits, size, mode='bilinear').movedim(1, -1)[known]
        for v in (ours, theirs)
    )
    a, _, soft = merit_mixture(s, t, ours.labels[known], 'hard', 2.0)
    torch.testing.assert_close(value, (a * soft).mean())


@pytest.mark.parametrize('config', [gfl, pairs.retina, pairs.fcos])
@pytest.mark.parametrize('region', ['main', 'all'])
def test_of_independent_classes_the_merit_is_each_ones(config, region):
    ours, theirs = pairs.pair(config())
    value = MeritBased(part='dense', mix='add', region=region)(ours, theirs)
    chosen = (ours.positives if region == 'main' else torch.ones_like(ours.valid)) & ours.sampled
    total = 0.0
    for image, row in chosen.nonzero().tolist():
        s, t = (v.flat_cls_logits[image, row] for v in (ours, theirs))
        label = int(ours.assignment.labels[image, row])
        for c in range(len(s)):
            p = t[c].sigmoid()
            total = total + (p if c == label else 1 - p) * sigmoid_kl(s[c], t[c])
    torch.testing.assert_close(value, total / chosen.sum(), rtol=1e-4, atol=1e-6)


def test_the_rpn_has_merits_too():
    ours, theirs = two_stage.pair()
    value = MeritBased(part='rpn', mix='add')(ours, theirs)
    value.backward()
    assert value > 0 and ours.model.rpn_head.rpn_cls.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('mix', ['exact', 'add'])
def test_a_batch_without_a_label_gives_zero_that_back_propagates(mix):
    ours, theirs = segmentation.views(*segmentation.pair())
    ours.labels = torch.full_like(ours.labels, 255)
    value = MeritBased(mix=mix)(ours, theirs)
    value.backward()
    assert value.item() == 0


def test_images_without_objects_give_zero():
    ours, theirs = pairs.pair(boxes=((), ()))
    assert MeritBased(part='dense', mix='add')(ours, theirs).item() == 0


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        (dict(kind='merit'), "'delta', 'hard', 'soft'"),
        (dict(part='head'), "'decode', 'rpn', 'roi', 'dense'"),
        (dict(mix='both'), "'exact', 'add'"),
        (dict(variant='seed'), "'paper', 'reference'"),
        (dict(region='middle'), 'region is'),
        (dict(temperature=0), 'temperature is 0'),
        (dict(kind='delta', alpha=0.95), 'alpha is 0.95 and delta 0.1'),
        (dict(kind='hard', alpha=1.5), 'alpha is 1.5'),
    ],
)
def test_unknown_choices_are_refused_when_building(choice, message):
    with pytest.raises(SetupError, match=message):
        MeritBased(**choice)


OHEM = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)


@pytest.mark.parametrize(
    ('student', 'loss', 'message'),
    [
        (gfl(), dict(part='dense'), r"does not train by; set `mix='add'`"),
        (gfl(), dict(), 'MeritBased reads seg_logits, which kd_dense does not know of a GFL'),
        (segmentation.segmentor(sampler=OHEM), dict(), r"without a sampler; set `mix='add'`"),
        (gfl(), dict(part='rpn', mix='add'), "part 'rpn' is one of two-stage detectors"),
        (pairs.fcos(), dict(part='dense', mix='add', region='vlr'), "region 'vlr' needs"),
    ],
)
def test_a_head_that_has_no_such_mixture_is_refused(student, loss, message):
    model = segmentation.build(student) if 'decode_head' in student else pairs.build(student)
    with pytest.raises(SetupError, match=message):
        pairs.check_models(model, model, dict(merit=MeritBased(**loss)))


def test_weighted_classes_are_refused_and_may_be_added_to():
    loss = dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 1.0])
    model = segmentation.build(segmentation.segmentor(loss_decode=loss))
    with pytest.raises(SetupError, match='one cross entropy over a softmax'):
        pairs.check_models(model, model, dict(merit=MeritBased()))
    pairs.check_models(model, model, dict(merit=MeritBased(mix='add')))
