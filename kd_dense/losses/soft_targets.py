"""Soft targets: the teacher's class distribution at a temperature (Hinton et al. 2015)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import DenseView, host_info, view_class
from .base import DistillationLoss, global_divisor
from .checks import check_choice, check_temperature, standardize_demands
from .functional import sigmoid_kl, softmax_kl, standardized
from .regions import REGIONS, check_region, known_to, region_demands, region_reads
from .targets import check_targets, confidence_weighted, permuted_logits

NO_STANDARD = (
    'standardize=True compares the classes with each other, and scores by sigmoid are independent.'
)


@MODELS.register_module()
class SoftTargets(DistillationLoss):
    """Classification distillation on the predictions of a region.

    weight * sum of the KL over the region / number of predictions in it. Softmax heads compare one
    distribution over the classes (with the background), sigmoid heads one Bernoulli per class.

    Sources: [1] Hinton et al., arXiv 1503.02531; [2] Zheng et al., "Localization Distillation",
    arXiv 2102.12252, whose classification term is ``temperature=2, weight=10,
    activation='softmax', region='main', over_classes='mean'`` (softmax even on a sigmoid head).

    Differs from [2]'s code in the divisor: that divides on each level by the level's positives and
    adds the levels; here all levels share one count, over all ranks.
    ``variant='reference'`` computes as that code does.

    ``standardize=True`` brings the logits of each prediction to mean 0 and deviation 1 before the
    softmax, on both sides: :func:`~kd_dense.losses.functional.standardized`.

    Args:
        temperature: T.
        weight: see :class:`DistillationLoss`.
        activation: ``'softmax'``, ``'sigmoid'`` or ``'auto'``, the head's own.
        region: one of :data:`~kd_dense.losses.regions.REGIONS`.
        over_classes: ``'sum'`` or ``'mean'`` of the K classes' terms.
        variant: ``'paper'`` or ``'reference'``.
        standardize: whether to standardize the logits; of a softmax alone.
        targets: ``'teacher'``; or, to tell what of the teacher helps, ``'permuted'``, its scores
            with all but the largest in random order
            (:func:`~kd_dense.losses.targets.permuted_logits`), or ``'confidence'``, the labels of
            the positives, weighted by its largest score
            (:func:`~kd_dense.losses.targets.confidence_weighted`).
        scale_by_temperature: whether the loss is multiplied by T^2, as in [1].

    Raises:
        SetupError: an unknown choice, a temperature that is not positive, logits of a sigmoid to be
            standardized, or targets that have no such region, temperature or variant.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        weight: float = 1.0,
        activation: Literal['auto', 'softmax', 'sigmoid'] = 'auto',
        region: str = 'all',
        over_classes: Literal['sum', 'mean'] = 'sum',
        variant: Literal['paper', 'reference'] = 'paper',
        standardize: bool = False,
        targets: Literal['teacher', 'permuted', 'confidence'] = 'teacher',
        scale_by_temperature: bool = True,
    ) -> None:
        super().__init__(weight)
        check_choice('activation', activation, ('auto', 'softmax', 'sigmoid'))
        check_choice('over_classes', over_classes, ('sum', 'mean'))
        check_choice('variant', variant, ('paper', 'reference'))
        check_region(region)
        check_temperature(temperature)
        if standardize and activation == 'sigmoid':
            raise SetupError(f'{NO_STANDARD} Leave one of the two out.')
        check_targets(targets, temperature, variant, standardize)
        if targets == 'confidence' and region != 'main':
            raise SetupError(
                f"targets 'confidence' are those of the positives; set `region='main'`, found "
                f'{region!r}.'
            )
        self.reads = ('cls_logits', *region_reads(region))
        self.looks_at = 'all' if region == 'general' else region
        self.temperature = temperature
        self.activation = activation
        self.region = region
        self.over_classes = over_classes
        self.variant = variant
        self.standardize = standardize
        self.maps_classes = targets != 'confidence'  # which compares with labels
        self.targets = targets
        self.factor_of_temperature = 1.0 if scale_by_temperature else temperature**-2

    def demands(self, student: nn.Module) -> list[str]:
        """What the region asks of the student; scores enough for a softmax."""
        found = region_demands(self.region, student)
        view: Any = view_class(student)
        if found or not issubclass(view, DenseView):
            return found
        scores = view.head_of(student).cls_out_channels
        if self._activation(host_info(student).activation) == 'sigmoid':
            if self.standardize:
                found.append(
                    f"{NO_STANDARD} Set `activation='softmax'`, or use BinaryDistillation, which "
                    'is made for them'
                )
        elif scores == 1:
            found.append(
                'a softmax over one class is always 1 and teaches nothing; set '
                "`activation='auto'`, which compares by sigmoid"
            )
        elif self.standardize:
            found += standardize_demands(scores)
        return found

    def _activation(self, own: str) -> str:
        """By what the scores are compared, given the head's own activation."""
        return own if self.activation == 'auto' else self.activation

    def forward(self, student: DenseView, teacher: DenseView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        mask = known_to(teacher, REGIONS[self.region](student, teacher), 'cls_logits')
        s, t = student.flat_cls_logits[mask], teacher.flat_cls_logits[mask]
        activation = self._activation(student.activation)
        if (shared := teacher.class_map) is not None:
            lump = student.activation == 'softmax'  # which has a background
            s, t = (shared.grouped if lump else shared.columns)(s, t)
        if self.targets == 'confidence':
            labels = student.assignment.labels[mask]
            return confidence_weighted(s, t, labels, activation == 'softmax')
        if self.targets == 'permuted':
            t = permuted_logits(t)
        if activation == 'softmax':
            if self.standardize:
                s, t = standardized(s), standardized(t)
            kl = softmax_kl(s, t, self.temperature)
        else:
            kl = sigmoid_kl(s, t, self.temperature).sum(dim=-1)
        if self.over_classes == 'mean':
            kl = kl / s.shape[-1]
        kl = kl * self.factor_of_temperature
        if self.variant == 'reference':
            level = student.level_index.expand_as(mask)[mask]
            count = (
                mask.sum(0)
                .new_zeros(len(student.level_sizes))
                .index_add_(0, level, mask.new_ones(len(level), dtype=mask.sum().dtype))
            )
            return (kl / count[level]).sum()
        return kl.sum() / global_divisor(mask.sum())
