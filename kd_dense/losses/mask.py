"""Distillation of the masks of proposals: what the teacher draws in the student's own boxes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..registry import MODELS
from ..views import TwoStageView, host_info, view_class
from ..views.info import MASKS
from .base import DistillationLoss, global_divisor
from .checks import check_temperature
from .functional import sigmoid_kl
from .maps import resized_masks, size_of


def mask_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over masks and pixels of KL(B(t/T) || B(s/T)) * T^2, B = Bernoulli with p = sigmoid.

    Args:
        student: logits, (M, h, w).
        teacher: logits, (M, h', w'), detached; of another size they are interpolated linearly.
        temperature: T, above 0.

    Returns:
        a float32 scalar, 0 with a graph where there are no masks.

    Raises:
        SetupError: another number of masks.
    """
    teacher = resized_masks(teacher.detach().float(), size_of(student))
    return sigmoid_kl(student, teacher, temperature).sum()


@MODELS.register_module()
class MaskDistillation(DistillationLoss):
    r"""The student draws each object's mask as the teacher does in the same box.

    weight * sum over the masks and their pixels of :math:`KL(B(t/T) \| B(s/T)) T^2` / (masks *
    pixels), global over ranks: a mean over what the student's own mask loss is a mean of. Boxes are
    the proposals with an object that the student's own mask loss samples; the teacher pools its own
    features in them and draws by its own mask head, image by image. Of the K masks of a box that of
    its object's class is compared; a head that draws one mask for all classes gives that one, on
    either side.

    The teacher is a Mask R-CNN, or a Cascade Mask R-CNN, of which the last stage's mask head draws;
    the student too, whose last stage then learns.

    No paper is known to us that publishes this loss on shared proposals: soft targets [1] of the
    binary masks are our choice, T = 1 and weight 1 too.

    Sources: [1] Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network",
    arXiv 1503.02531.

    Args:
        temperature: T.
        weight: see :class:`DistillationLoss`.

    Raises:
        SetupError: a temperature that is not positive.
    """

    reads = ('mask_logits',)

    def __init__(self, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_temperature(temperature)
        self.temperature = temperature

    def demands(self, student: nn.Module) -> list[str]:
        """A second stage that draws a mask of each proposal and nothing more."""
        if not issubclass(view_class(student), TwoStageView):
            return []  # whose view has no masks at all
        if MASKS in host_info(student).abilities:
            return []
        roi_head: Any = student.roi_head
        found = (
            f'masks as {type(roi_head).__name__} draws them' if roi_head.with_mask else 'no masks'
        )
        return [
            'it compares the masks that Mask R-CNN and Cascade Mask R-CNN draw of proposals; found '
            f'a {type(student).__name__} with {found}. Losses on features work on it'
        ]

    def forward(self, student: TwoStageView, teacher: TwoStageView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        ours = student.mask_logits
        count = ours.new_tensor(ours.numel())
        return mask_kl(ours, teacher.mask_logits, self.temperature) / global_divisor(count)
