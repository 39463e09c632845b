"""Holistic distillation: a discriminator shall not tell the student's segmentation from the
teacher's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

from ...errors import SetupError
from ...hosts import Host, isolated_rng, numbered_generator
from ...registry import MODELS
from ...views import SegmentationView, host_info, view_class
from ..base import DistillationLoss, global_divisor
from ..checks import softmax_demands
from ..maps import resized, size_of
from .critic import Discriminator, frozen, gradient_penalty

if TYPE_CHECKING:
    from ...teachers import Teacher

OPTIMIZERS = (
    "optim_wrapper=dict(constructor='kd_dense.AdversarialOptimWrapperConstructor', "
    'student=dict(...), discriminator=dict(...))'
)


class CriticInput(NamedTuple):
    """What the discriminator is shown of one batch.

    Attributes:
        student, teacher: class scores by softmax, 0 where a pixel is ignored, (N, K, h, w).
        images: as the student sees them, (N, 3, H, W).
    """

    student: Tensor
    teacher: Tensor
    images: Tensor


@MODELS.register_module()
class Holistic(DistillationLoss):
    """Adversarial: the student's class scores shall score with the discriminator as the teacher's.

    For the student: weight * -E[D(S)]. For the discriminator D, in the same step and after the
    student: ``E[D(S)] - E[D(T)] + penalty * E[(|grad D(x)| - 1)^2]``, x between S and T. S and T
    are softmax scores, set to 0 where a pixel is ignored or padding; D sees the image too. E is
    the mean over the images of all ranks.

    The discriminator has its own optimizer and schedule:
    :class:`~kd_dense.losses.adversarial.AdversarialOptimWrapperConstructor`.

    Sources: [1] Liu et al., arXiv 1903.04197, equations 4 and 5, lambda_2 = 0.1, penalty 10;
    learning rates 4e-4 for D and 1e-2 for the student in its code. See
    :mod:`kd_dense.losses.adversarial.critic`.

    Differs from [1]'s code: that shows D the raw logits, through a batch norm that is trained, and
    not softmax scores; multiplies D's own loss, penalty included, by 0.1; and trains D by SGD with
    momentum 0.9 and weight decay 5e-4, the recipe here by Adam.

    Args:
        weight: lambda_2; see :class:`DistillationLoss`.
        penalty: of the gradient.
        conditional: whether D sees the image.
        limit: the most that this loss's gradient on the logits may be, as a multiple of the task
            loss's (Euclidean norms, over the batch of this rank): a critic's scores know no
            bounds. None for no limit, as in [1]. Logged as ``kd_limited/NAME``, 1 where
            the limit does not bite.
        steps: of the discriminator for each of the student's.
        width: channels of D's four blocks.
        seed: of the random points between S and T.

    Raises:
        SetupError: a number out of its range.
    """

    def __init__(
        self,
        weight: float = 0.1,
        penalty: float = 10.0,
        conditional: bool = True,
        limit: float | None = 1.0,
        steps: int = 1,
        width: tuple[int, ...] = (64, 128, 256, 512),
        seed: int = 0,
    ) -> None:
        super().__init__(weight)
        if penalty < 0 or steps < 1 or (limit is not None and limit <= 0) or len(width) != 4:
            raise SetupError(
                f'Holistic got penalty={penalty}, steps={steps}, limit={limit}, width={width}; the '
                'penalty must not be negative, steps at least 1, limit above 0 or None, and the '
                'discriminator has four blocks.'
            )
        self.reads = ('seg_logits',)
        self.penalty = penalty
        self.conditional = conditional
        self.limit = limit
        self.steps = steps
        self.width = tuple(width)
        self.seed = seed
        self.discriminator: Discriminator | None = None
        self.drawn: Tensor
        self.register_buffer('drawn', torch.zeros((), dtype=torch.long))

    def connect(self, student: Host, teacher: Teacher) -> None:
        """Build the discriminator for the student's classes."""
        if issubclass(view_class(student), SegmentationView):
            with isolated_rng(self.seed):
                classes = host_info(student).num_classes
                self.discriminator = Discriminator(classes, self.conditional, self.width)

    def own_module(self) -> nn.Module | None:
        """The discriminator."""
        return self.discriminator

    def _critic(self) -> Discriminator:
        if self.discriminator is None:
            raise RuntimeError('The loss was not connected to a segmentor.')
        return self.discriminator

    def unsynced_parameters(self) -> list[str]:
        """Names of the discriminator's, and of the counter of its random numbers."""
        return [name for name, _ in (*self.named_parameters(), *self.named_buffers())]

    def demands(self, student: nn.Module) -> list[str]:
        """A segmentor with scores by softmax."""
        known = issubclass(view_class(student), SegmentationView)
        return softmax_demands(student) if known else []

    def forward(self, student: SegmentationView, teacher: SegmentationView) -> Tensor:
        """The raw loss of one batch for the student, a scalar."""
        if not self.has_optimizer:
            raise SetupError(
                f'The discriminator of Holistic has no optimizer. Set {OPTIMIZERS}; '
                'the recipe `structured` has one to start from. With one optimizer for both it '
                'would learn to let the student pass.'
            )
        ours, images = self._scores(student), student.batch.images.float()
        critic = self._critic()
        with frozen(critic):
            scores = critic(ours, images)
        value = -scores.sum() / global_divisor(scores.new_tensor(len(scores)))
        return value if self.limit is None else value * self._share(value, student, self.limit)

    def show(self, student: SegmentationView, teacher: SegmentationView) -> CriticInput:
        """What the discriminator sees of a batch, detached."""
        size = size_of(student.seg_logits)
        valid = student.valid_at(size)
        theirs = resized(teacher.seg_logits.detach().float(), size)
        with torch.no_grad():
            ours = self._scores(student)
            return CriticInput(ours, _softmax(theirs, valid), student.batch.images.float())

    @staticmethod
    def _scores(student: SegmentationView) -> Tensor:
        """The student's class scores, with their gradient."""
        logits = student.seg_logits.float()
        return _softmax(logits, student.valid_at(size_of(logits)))

    def _share(self, value: Tensor, student: SegmentationView, limit: float) -> float:
        """What of the loss keeps its gradient on the logits within the limit."""
        logits = student.seg_logits
        if not (value.requires_grad and logits.requires_grad):
            return 1.0
        ours, task = (_gradient_norm(x, logits) for x in (value * self.scale, student.task_loss()))
        share = min(1.0, limit * task / ours) if ours > 0 else 1.0
        share = share if math.isfinite(share) else 0.0
        MessageHub.get_current_instance().update_scalar(f'train/kd_limited/{self.name}', share)
        return share

    def own_losses(self, shown: CriticInput) -> dict[str, Tensor]:
        """The discriminator's own loss on what it was shown, with its parts.

        Returns:
            ``total``, ``gap`` (E[D(T)] - E[D(S)], what the critic tells them apart by) and
            ``penalty``, scalars; the mean over the images of this rank.
        """
        student, teacher, images = shown
        # its own random numbers: the student's stay as they are, and a resumed game draws the same
        generator = numbered_generator(self.seed, int(self.drawn))
        self.drawn += 1
        share = torch.rand(len(student), generator=generator).to(student.device)
        critic = self._critic()
        gap = critic(teacher, images).mean() - critic(student, images).mean()
        penalty = gradient_penalty(lambda x: critic(x, images), student, teacher, share).mean()
        return dict(total=self.penalty * penalty - gap, gap=gap, penalty=penalty)


def _softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Scores by softmax, (N, K, h, w), 0 where a pixel is not valid, (N, h, w)."""
    valid = valid[:, None]
    return logits.masked_fill(~valid, 0.0).softmax(dim=1) * valid


def _gradient_norm(loss: Tensor, logits: Tensor) -> float:
    """Euclidean norm of a loss's gradient on the logits, times 1,024 against underflow."""
    (gradient,) = torch.autograd.grad(loss * 1024, logits, retain_graph=True)
    return float(torch.linalg.vector_norm(gradient, dtype=torch.float32))
