"""The critic of structured distillation: whose segmentation of this image is it?

Sources: [1] Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
arXiv 1903.04197, section 3.3 and its code; [2] Gulrajani et al., "Improved Training of Wasserstein
GANs", arXiv 1704.00028, equation 3; [3] Zhang et al., "Self-Attention Generative Adversarial
Networks", arXiv 1805.08318; [4] Miyato et al., "Spectral Normalization", arXiv 1802.05957.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

CHANNELS = (64, 128, 256, 512)
SMALLEST = 2 ** len(CHANNELS)  # positions that the blocks make one of


class SelfAttention(nn.Module):
    """y = x + gamma * attention(x) over all positions; gamma starts at 0 [3, section 3].

    Args:
        channels: C, at least 8; queries and keys have C / 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        query, key, value = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        weights = torch.einsum('ncq,nck->nqk', query, key).softmax(dim=-1)
        return x + self.gamma * torch.einsum('nck,nqk->ncq', value, weights).view_as(x)


class Discriminator(nn.Module):
    """Scores how much a map of class scores looks like the teacher's, given the image.

    Four blocks (4 x 4 convolution with stride 2 and spectral norm, LeakyReLU 0.1; 64, 128, 256 and
    512 channels), self-attention behind the third and fourth, and a last convolution to one score a
    position; an image's score is their mean. There is no normalisation over the batch, so each
    image's gradient penalty is its own.

    Differs from [1]'s code, which sees the scores alone, on maps of 65 x 65: the last convolution
    is 3 x 3 with padding instead of one that covers the whole map, and maps with a side under 16
    positions are enlarged to that.

    Args:
        num_classes: K.
        conditional: whether it sees the image too, as [1]'s paper has it.
        width: channels of the four blocks.
    """

    def __init__(
        self, num_classes: int, conditional: bool = True, width: tuple[int, ...] = CHANNELS
    ) -> None:
        super().__init__()
        self.conditional = conditional
        layers: list[nn.Module] = []
        channels = num_classes + (3 if conditional else 0)
        for index, out in enumerate(width):
            layers += [spectral_norm(nn.Conv2d(channels, out, 4, 2, 1)), nn.LeakyReLU(0.1)]
            if index >= 2:
                layers.append(SelfAttention(out))
            channels = out
        self.blocks = nn.Sequential(*layers)
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def verdict(self, scores: Tensor, images: Tensor) -> Tensor:
        """The score of each position.

        Args:
            scores: class scores, (N, K, h, w).
            images: of any size, (N, 3, H, W).

        Returns:
            (N, h', w'), h' about h / 16.
        """
        size = [max(SMALLEST, n) for n in scores.shape[-2:]]
        x = scores
        if tuple(x.shape[-2:]) != tuple(size):
            x = F.interpolate(x, size, mode='bilinear', align_corners=False)
        if self.conditional:
            images = F.interpolate(images, size, mode='bilinear', antialias=True)
            x = torch.cat([x, images.to(x.dtype)], dim=1)
        return self.last(self.blocks(x))[:, 0]

    def forward(self, scores: Tensor, images: Tensor) -> Tensor:
        """The score of each image, (N,); arguments as of :meth:`verdict`."""
        return self.verdict(scores, images).flatten(1).mean(dim=1)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], student: Tensor, teacher: Tensor, share: Tensor
) -> Tensor:
    """``(|grad D(x)| - 1)^2`` of each image, x = share * teacher + (1 - share) * student [2].

    Args:
        critic: D, from (N, ...) to (N,), each image for itself.
        student, teacher: (N, ...); detached.
        share: between 0 and 1, (N,).

    Returns:
        (N,).
    """
    share = share.view(-1, *[1] * (student.dim() - 1))
    between = torch.lerp(student.detach(), teacher.detach(), share).requires_grad_()
    with torch.enable_grad():
        scores = critic(between).sum()
        (gradient,) = torch.autograd.grad(scores, between, create_graph=True)
    # the gradient of a norm at 0 is not defined: away from it this adds nothing
    norm = (gradient.flatten(1).square().sum(dim=1) + 1e-12).sqrt()
    return (norm - 1).square()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module, and none to its parameters."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
