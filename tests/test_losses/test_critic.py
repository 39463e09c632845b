"""The discriminator and its gradient penalty."""

import pytest
import torch
from torch import nn

from kd_dense.losses.adversarial.critic import (
    Discriminator,
    SelfAttention,
    frozen,
    gradient_penalty,
)

SMALL = (8, 8, 16, 16)


def critic(**choices) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(3, **{'width': SMALL} | choices)


def scores(size: tuple[int, int] = (24, 32), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, *size, generator=generator).softmax(dim=1)


def images(seed: int = 5) -> torch.Tensor:
    return torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(seed))


# -- the network -------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(1, 1), (5, 40), (16, 16), (33, 65), (64, 128)])
def test_maps_of_any_size_are_judged(size):
    model = critic().eval()
    verdict = model.verdict(scores(size), images())
    assert verdict.shape == (2, max(size[0] // 16, 1), max(size[1] // 16, 1))
    torch.testing.assert_close(model(scores(size), images()), verdict.mean(dim=(1, 2)))


def test_it_has_the_papers_layers():
    model = Discriminator(19)
    convolutions = [m for m in model.blocks if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (22, 64), (64, 128), (128, 256), (256, 512)
    ]  # fmt: skip
    assert {(m.kernel_size, m.stride, m.padding) for m in convolutions} == {
        ((4, 4), (2, 2), (1, 1))
    }
    kinds = [type(m).__name__ for m in model.blocks]
    assert kinds[4:] == ['ParametrizedConv2d', 'LeakyReLU', 'SelfAttention'] * 2
    assert model.blocks[6].query.out_channels == 256 // 8
    assert not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in model.modules())


def test_each_convolution_has_a_spectral_norm_of_one():
    model = critic()
    for _ in range(50):  # the power method converges
        model(scores(), images())
    weight = model.eval().blocks[2].weight
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_the_image_counts_where_it_is_seen_and_only_there():
    seeing, blind = critic().eval(), critic(conditional=False).eval()
    assert not seeing(scores(), images()).equal(seeing(scores(), images(6)))
    assert blind(scores(), images()).equal(blind(scores(), images(6)))


def test_each_image_is_judged_for_itself():
    model = critic().eval()
    both = model(scores(), images())
    torch.testing.assert_close(model(scores()[1:], images()[1:]), both[1:])


def test_attention_starts_as_the_identity_and_equals_a_slow_loop():
    torch.manual_seed(0)
    layer, x = SelfAttention(8), torch.randn(1, 8, 2, 3)
    assert layer(x).equal(x)
    layer.gamma.data.fill_(0.5)
    q, k, v = (f(x)[0].flatten(1) for f in (layer.query, layer.key, layer.value))
    expected = torch.empty(8, 6)
    for i in range(6):
        weights = torch.stack([q[:, i] @ k[:, j] for j in range(6)]).softmax(0)
        expected[:, i] = x[0].flatten(1)[:, i] + 0.5 * sum(weights[j] * v[:, j] for j in range(6))
    torch.testing.assert_close(layer(x)[0].flatten(1), expected)


# -- the penalty -------------------------------------------------------------------------------


def test_the_penalty_of_a_linear_critic_is_known():
    weight = torch.tensor([3.0, 4.0])  # of norm 5, whatever the point
    s, t = torch.zeros(3, 2), torch.ones(3, 2)
    penalty = gradient_penalty(lambda x: x @ weight, s, t, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(penalty, torch.full((3,), 16.0))


def test_the_penalty_is_taken_between_student_and_teacher():
    s, t = torch.zeros(2, 1), torch.ones(2, 1) * 4
    penalty = gradient_penalty(lambda x: x.square().sum(1), s, t, torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(penalty, torch.tensor([1.0, 9.0]))  # at 1 and 2, slopes 2 and 4


def test_the_penalty_teaches_the_critic_and_nobody_else():
    model, s, t = critic(), scores().requires_grad_(), scores(seed=1).requires_grad_()
    share = torch.tensor([0.3, 0.6])
    gradient_penalty(lambda x: model(x, images()), s, t, share).sum().backward()
    assert s.grad is None and t.grad is None
    assert model.blocks[0].parametrizations.weight.original.grad.abs().sum() > 0


def test_the_penaltys_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    weight = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    s, t = torch.randn(2, 3, 4, dtype=torch.float64)[:, :2].unbind(0)
    share = torch.tensor([0.3, 0.6], dtype=torch.float64)

    def penalty(w):
        return gradient_penalty(lambda x: (x @ w.t()).tanh().sum(1), s, t, share)

    assert torch.autograd.gradcheck(penalty, weight)


def test_a_critic_without_any_slope_has_a_finite_gradient():
    weight = torch.zeros(2, requires_grad=True)
    gradient_penalty(
        lambda x: x @ weight, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1)
    ).sum().backward()
    assert weight.grad.isfinite().all()


def test_frozen_lets_gradients_through_and_none_to_the_parameters():
    model, s = critic(), scores().requires_grad_()
    with frozen(model):
        value = model(s, images()).sum()
    value.backward()
    assert s.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
