"""Holistic distillation: what the student and the discriminator each minimise."""

import pytest
import torch

from kd_dense import Holistic
from kd_dense.errors import SetupError
from kd_dense.losses.adversarial.critic import gradient_penalty
from kd_dense.teachers import FrozenTeacher
from tests.helpers.segmentation import pair, segmentor, views

SMALL = (8, 8, 16, 16)


def game(teacher: dict | None = None, same: bool = False, **choices):
    """A connected loss with its optimizer, and both views of a batch."""
    student, other = pair(teacher=teacher)
    loss = Holistic(**{'width': SMALL, 'limit': None} | choices)
    loss.connect(student, FrozenTeacher.of(other))
    loss.has_optimizer = True
    return loss.eval(), *views(student, student if same else other)  # eval: one spectral norm


def test_the_student_is_told_the_negative_mean_score():
    loss, ours, theirs = game()
    valid = ours.valid_at(ours.seg_logits.shape[-2:])[:, None]
    shown = ours.seg_logits.softmax(dim=1) * valid
    expected = -loss.discriminator(shown, ours.batch.images).mean()
    torch.testing.assert_close(loss(ours, theirs), expected)


def test_the_discriminator_minimises_the_gap_and_the_penalty():
    loss, ours, theirs = game(penalty=7.0, seed=3)
    student, teacher, images = shown = loss.show(ours, theirs)
    assert not student.requires_grad and not teacher.requires_grad
    share = torch.rand(2, generator=torch.Generator().manual_seed(3 * 1_000_003 * 4096))
    parts = loss.own_losses(shown)
    critic = loss.discriminator
    gap = critic(teacher, images).mean() - critic(student, images).mean()
    penalty = gradient_penalty(lambda x: critic(x, images), student, teacher, share).mean()
    torch.testing.assert_close(parts['gap'], gap)
    torch.testing.assert_close(parts['penalty'], penalty)
    torch.testing.assert_close(parts['total'], 7 * penalty - gap)


def test_each_judgement_draws_new_points_and_leaves_the_random_numbers_alone():
    loss, ours, theirs = game()
    before = torch.get_rng_state()
    shown = loss.show(ours, theirs)
    first, second = (loss.own_losses(shown)['penalty'] for _ in range(2))
    assert not first.equal(second) and torch.get_rng_state().equal(before)
    loss.drawn.zero_()
    assert loss.own_losses(shown)['penalty'].equal(first)


def test_the_gap_is_zero_where_student_and_teacher_say_the_same():
    loss, ours, theirs = game(same=True)
    shown = loss.show(ours, theirs)
    assert loss.own_losses(shown)['gap'].item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_reaches_the_student_and_neither_the_discriminator_nor_the_teacher():
    loss, ours, theirs = game()
    loss(ours, theirs).backward()
    assert ours.model.decode_head.conv_seg.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss.parameters())
    assert all(p.grad is None for p in theirs.model.parameters())


def test_ignored_pixels_and_padding_change_nothing():
    loss, ours, theirs = game()
    before = loss(ours, theirs)
    valid = ours.valid_at(ours.seg_logits.shape[-2:])[:, None]
    ours.seg_logits = torch.where(valid, ours.seg_logits, torch.arange(3.0)[:, None, None])
    torch.testing.assert_close(loss(ours, theirs), before)
    shown = loss.show(ours, theirs)
    assert (shown.student * ~valid == 0).all() and (shown.teacher * ~valid == 0).all()


def test_the_limit_holds_the_gradient_on_the_logits_to_that_of_the_task():
    loss, ours, theirs = game(weight=1000.0)
    logits = ours.seg_logits

    def norm(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0].norm().item()

    task = norm(ours.task_loss())
    assert norm(loss(ours, theirs) * loss.scale) > 3 * task
    loss.limit = 2.0
    assert norm(loss(ours, theirs) * loss.scale) == pytest.approx(2 * task, rel=1e-3)
    loss.weight = 1e-6
    loss.limit, free = None, loss(ours, theirs)
    loss.limit = 2.0
    assert loss(ours, theirs).equal(free)  # far from the limit nothing changes


def test_a_teacher_of_another_output_stride_is_shown_at_the_students_size():
    loss, ours, theirs = game(teacher=segmentor(stride=16))
    shown = loss.show(ours, theirs)
    assert shown.teacher.shape == shown.student.shape


def test_without_its_own_optimizer_it_is_refused():
    loss, ours, theirs = game()
    loss.has_optimizer = False
    with pytest.raises(SetupError, match=r'has no optimizer\. Set optim_wrapper=dict'):
        loss(ours, theirs)


def test_switched_off_it_is_a_plain_zero_without_the_discriminator():
    loss, ours, _ = game()
    zero = loss.zero_like_parameters(ours.batch.images)
    assert zero.item() == 0 and not zero.requires_grad


def test_the_loss_keeps_nothing_of_a_batch():
    loss, ours, theirs = game()
    before = dict(vars(loss))
    loss(ours, theirs)
    loss.show(ours, theirs)
    assert vars(loss) == before


def test_all_of_it_is_apart_from_the_student():
    loss, *_ = game()
    assert set(loss.unsynced_parameters()) == set(loss.state_dict())


@pytest.mark.parametrize(
    'choice', [dict(penalty=-1), dict(steps=0), dict(limit=0), dict(width=(8, 8, 8))]
)
def test_numbers_out_of_their_range_are_refused_when_building(choice):
    with pytest.raises(SetupError, match='four blocks'):
        Holistic(**choice)
