"""Where distillation looks: regions of detectors, and what a discriminator makes of a segmentor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..distiller import Distiller
from ..losses.adversarial.critic import Discriminator, frozen
from ..losses.base import DistillationLoss
from ..losses.regions import (
    main_region,
    position_centres,
    region_demands,
    valuable_localization_region,
)
from ..views import DenseView, SegmentationView, view_class
from .overlays import Dots
from .samples import PackedSample

# of each region that is drawn: what it is, its title and colour
REGIONS = {
    'main': (main_region, 'main region', '#1a9e3f'),
    'vlr': (valuable_localization_region, 'valuable localization region', '#f28500'),
}
DOT_SHARE = 0.4  # of a level's stride


@torch.no_grad()
def look(student: nn.Module, images: Sequence[PackedSample]) -> dict[str, list[Dots]]:
    """The positions of each region that a detector's head defines.

    To be called on all ranks, because losses count over all of them; the student is left in eval
    mode, in which it assigns the same labels.

    Returns:
        dots of each image, by name of the region; without those that are not defined.
    """
    view_type = view_class(student)
    if not issubclass(view_type, DenseView) or getattr(student, 'with_mask', False):
        return {}  # nothing dense, or a loss that wants masks, which the images come without
    names = [name for name in REGIONS if not region_demands(name, student)]
    student.eval()
    dots: dict[str, list[Dots]] = {name: [] for name in names}
    for image in images if names else ():
        view = view_type(student, image.batch(student))
        with view.recording():
            student.loss(view.batch.images, view.batch.samples)
        centres = position_centres(view).cpu().numpy()
        strides = np.repeat(view.strides, [h * w for h, w in view.level_sizes])
        for name in names:
            region, _, colour = REGIONS[name]
            levels = view.positions(region(view, view))
            chosen = torch.cat([level[0].flatten() for level in levels]).cpu().numpy()
            dots[name].append(Dots(centres[chosen], strides[chosen] * DOT_SHARE, colour))
    return dots


@dataclass(frozen=True)
class Verdict:
    """What a discriminator makes of one image.

    Attributes:
        student, teacher: scores of their segmentations.
        reasons: how much each position makes of student - teacher, (h, w).
        share: of the map's height and width, what lies on the image; the rest is padding.
    """

    student: float
    teacher: float
    reasons: np.ndarray
    share: tuple[float, float]


def verdicts(distiller: Distiller, images: Sequence[PackedSample]) -> dict[str, list[Verdict]]:
    """What each discriminator in force makes of each image, by name of its loss."""
    return {
        name: [judge(distiller, loss, image) for image in images]
        for name, loss in distiller.losses.items()
        if loss.active and isinstance(loss.own_module(), Discriminator)
    }


def judge(distiller: Distiller, game: DistillationLoss, image: PackedSample) -> Verdict:
    """Show a discriminator what it sees in training; models are left in eval mode."""
    distiller.student.eval()
    critic = game.own_module().eval()
    batch = image.batch(distiller.student, training=True)
    view = SegmentationView(distiller.student, batch, torch.no_grad)
    ours, theirs, images = game.show(view, distiller.teachers[game.teacher_name].view(batch))
    with torch.no_grad():
        scores = [float(critic(x, images)) for x in (ours, theirs)]
    reasons = attribute(critic, ours, theirs, images)[0].cpu().numpy()
    whole = zip(image.data['inputs'].shape[-2:], images.shape[-2:], strict=True)
    return Verdict(*scores, reasons, tuple(inner / outer for inner, outer in whole))


def attribute(
    critic: Discriminator, student: Tensor, teacher: Tensor, images: Tensor, steps: int = 16
) -> Tensor:
    """How much each position makes of D(student) - D(teacher), by integrated gradients.

    The critic's own map of scores is too coarse to look at: 16 positions become one.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv
    1703.01365, equation 1, with the teacher as the baseline.

    Args:
        critic: D.
        student, teacher: class scores, (1, K, h, w).
        images: (1, 3, H, W).
        steps: between teacher and student.

    Returns:
        (1, h, w); their sum is the difference of the scores, but for the steps being finite.
    """
    shares = (torch.arange(steps, device=student.device) + 0.5) / steps
    between = torch.lerp(teacher, student, shares.view(-1, 1, 1, 1)).requires_grad_()
    with torch.enable_grad(), frozen(critic):
        scores = critic(between, images.expand(steps, -1, -1, -1))
        (gradient,) = torch.autograd.grad(scores.sum(), between)
    return ((student - teacher) * gradient.mean(dim=0, keepdim=True)).sum(dim=1)
