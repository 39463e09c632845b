"""Pixel-wise distillation of segmentors: the teacher's class distribution of each pixel."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..class_map import ClassMap
from ..hosts import Host
from ..registry import MODELS
from ..views import SegmentationView, host_info, view_class
from .base import DistillationLoss, global_divisor
from .checks import check_choice, check_temperature, standardize_demands
from .functional import prepare_logits, softmax_kl, standardized
from .maps import LOGITS, logits_demands, resized, size_of
from .targets import check_targets, confidence_weighted, permuted_logits


def pixel_kl(student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 1.0) -> Tensor:
    """Sum over the valid pixels of KL(P(t/T) || P(s/T)) * T^2, P = softmax over the classes.

    Sources: [1] Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR
    2019, arXiv 1903.04197, equation 2.

    Args:
        student: logits, (N, K, h, w).
        teacher: logits, same shape; detached.
        valid: bool, (N, h, w).
        temperature: T, above 0.

    Returns:
        a float32 scalar.

    Raises:
        SetupError: the shapes differ.
    """
    student, teacher = prepare_logits(student, teacher)
    s, t = student.movedim(1, -1)[valid], teacher.movedim(1, -1)[valid]
    return softmax_kl(s, t, temperature).sum()


def pixel_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum P(t) log P(s) over classes, pixels and images / (h * w), as [1]'s code has it.

    Arguments as in :func:`pixel_kl`, whose source is [1].
    """
    student, teacher = prepare_logits(student, teacher)
    cross_entropy = -(teacher.softmax(dim=1) * F.log_softmax(student, dim=1)).sum()
    return cross_entropy / student.shape[-2:].numel()


@MODELS.register_module()
class PixelWise(DistillationLoss):
    """Each pixel's class distribution is that of the teacher.

    weight * sum of the KL over the valid pixels / their number, global over ranks: pixels of the
    map of logits whose centre is neither ignored nor padding. A teacher's map of another size is
    brought to the student's.

    Sources: [1] Liu et al., arXiv 1903.04197, equation 2, lambda_1 = 10; T = 1 there.

    Differs from [1]'s code, which computes the cross entropy (a constant more), over all pixels,
    divided by the pixels of one image and not by the images; ``variant='reference'`` does so.

    ``standardize=True`` brings the logits of each pixel to mean 0 and deviation 1 before the
    softmax, on both sides: :func:`~kd_dense.losses.functional.standardized`.

    Args:
        weight: see :class:`DistillationLoss`.
        temperature: T.
        part: ``'decode'``, or ``'auxiliary'`` for the auxiliary heads, whose losses are added.
        variant: ``'paper'`` or ``'reference'``.
        standardize: whether to standardize the logits.
        targets: as of :class:`~kd_dense.losses.soft_targets.SoftTargets`; ``'confidence'`` are the
            labels of all pixels that have one.
        over_classes: ``'sum'`` or ``'mean'`` of the K classes' terms.
        scale_by_temperature: whether the loss is multiplied by T^2.

    Raises:
        SetupError: an unknown choice, a temperature that is not positive, or targets that have no
            such temperature or variant.
    """

    def __init__(
        self,
        weight: float = 10.0,
        temperature: float = 1.0,
        part: Literal['decode', 'auxiliary'] = 'decode',
        variant: Literal['paper', 'reference'] = 'paper',
        standardize: bool = False,
        targets: Literal['teacher', 'permuted', 'confidence'] = 'teacher',
        over_classes: Literal['sum', 'mean'] = 'sum',
        scale_by_temperature: bool = True,
    ) -> None:
        super().__init__(weight)
        check_choice('over_classes', over_classes, ('sum', 'mean'))
        check_choice('part', part, tuple(LOGITS))
        check_choice('variant', variant, ('paper', 'reference'))
        check_temperature(temperature)
        check_targets(targets, temperature, variant, standardize)
        self.reads = (LOGITS[part],)
        self.temperature = temperature
        self.part = part
        self.variant = variant
        self.standardize = standardize
        self.maps_classes = targets != 'confidence'  # which compares with labels
        self.targets = targets
        self.over_classes = over_classes
        self.factor_of_temperature = 1.0 if scale_by_temperature else temperature**-2

    def demands(self, student: Host) -> list[str]:
        """Auxiliary heads where they are to be taught; scores by softmax, enough of them."""
        if not issubclass(view_class(student), SegmentationView):
            return []
        found = logits_demands(self.part, student)
        if not found and self.standardize:
            found = standardize_demands(host_info(student).num_classes)
        return found

    def forward(self, student: SegmentationView, teacher: SegmentationView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        if self.part == 'decode':
            pairs = [(student.seg_logits, teacher.seg_logits)]
        else:
            pairs = [*zip(student.aux_logits, teacher.aux_logits, strict=False)]
        shared = teacher.class_map
        return torch.stack([self._compare(student, *pair, shared) for pair in pairs]).sum()

    def _compare(
        self, view: SegmentationView, student: Tensor, teacher: Tensor, shared: ClassMap | None
    ) -> Tensor:
        size = size_of(student)
        teacher = resized(teacher.detach().float(), size)
        if shared is not None:
            lumped = shared.grouped(student.movedim(1, -1), teacher.movedim(1, -1))
            student, teacher = (maps.movedim(-1, 1) for maps in lumped)
        if self.standardize:
            student, teacher = standardized(student, dim=1), standardized(teacher, dim=1)
        if self.targets == 'permuted':
            teacher = permuted_logits(teacher.movedim(1, -1)).movedim(-1, 1)
        if self.variant == 'reference':
            return pixel_cross_entropy(student, teacher)
        valid = view.valid_at(size)
        if self.targets == 'confidence':
            s, t = (maps.movedim(1, -1)[valid] for maps in (student, teacher))
            return confidence_weighted(s, t, view.labels_at(size)[valid])
        kl = pixel_kl(student, teacher, valid, self.temperature) * self.factor_of_temperature
        if self.over_classes == 'mean':
            kl = kl / student.shape[1]
        return kl / global_divisor(valid.sum())
