"""A gated mean of models that train: knowledge distillation by on-the-fly native ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from mmdet.models.utils import unpack_gt_instances
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host
from ..own_loss import check_own_weight
from ..registry import TEACHERS
from ..views import Batch, DenseView, HostInfo, OneStageView, SegmentationView, View, view_class
from .base import Teacher
from .ensemble import NOT_AVERAGED, check_geometry
from .live import LiveTeacher

MIXED = ('cls_logits', 'box_logits', 'seg_logits')
NOT_MIXED = (*NOT_AVERAGED, 'aux_logits')


@TEACHERS.register_module()
class Gate(Teacher):
    r"""The gated mean of models that train together, a teacher of each of them.

    :math:`z_e = \sum_i g_i z_i` of the class logits, and of the box logits, position by position,
    with g = softmax(W avgpool(F)) of each image, F a map that the models share. The mean has the
    host's own loss, by which the gate learns and which reaches all models; what losses look at is
    detached.

    Source: Lan, Zhu, Gong, "Knowledge distillation by on-the-fly native ensemble", NeurIPS 2018,
    arXiv 1806.04606, of classifiers. Their code has batch norm and ReLU before the softmax; at a
    few images a batch these are noise, and ours has neither. Mixing boxes is our extension.

    Args:
        of: names of the models, ``('student', 'b', 'c')``; one-stage detectors or segmentors of one
            head geometry.
        at: the map that the gate reads of the first model, a stage of its view: ``'backbone.2'``.
        task_weight: what the mean's own loss is multiplied by; at 0 the gate does not learn.

    Raises:
        SetupError: fewer than two models, or a weight that is none.
    """

    of_this_step = True
    source = 'the gated mean of what trains'

    def __init__(self, of: Sequence[str], at: str, task_weight: float = 1.0) -> None:
        if isinstance(of, str) or len(of) < 2:
            raise SetupError(f"A Gate is `of` at least two models, ('student', 'b'); found {of!r}.")
        check_own_weight('task_weight', task_weight)
        self.of = tuple(of)
        self.at = at
        self.task_weight = task_weight
        self._models: list[LiveTeacher] = []
        self._linear: nn.Linear | None = None
        self._mixed: View | None = None
        self._loaded = False

    def meet(self, live: Mapping[str, Teacher]) -> None:
        """Find the models.

        Raises:
            SetupError: one is not there, or their heads differ.
        """
        for name in self.of:
            if name not in live:
                raise SetupError(
                    f'The {self.name} is a Gate of {name!r}, which is no model that trains; there '
                    f'is {", ".join(map(repr, live))}.'
                )
        self._models = [each for name in self.of if isinstance(each := live[name], LiveTeacher)]
        kinds = [view_class(each.model) for each in self._models]
        if not all(issubclass(kind, OneStageView | SegmentationView) for kind in kinds):
            raise SetupError(
                f'The {self.name} is a Gate, which mixes what one-stage detectors and segmentors '
                f'predict; found {", ".join(type(each.model).__name__ for each in self._models)}.'
            )
        for each in self._models:
            head = view_class(each.model).head_of(each.model)
            dense = issubclass(view_class(each.model), DenseView)
            place, wanted = (2, 'batch_gt_instances') if dense else (0, 'seg_logits')
            if list(signature(head.loss_by_feat).parameters)[place : place + 1] != [wanted]:
                raise SetupError(
                    f'The {self.name} is a Gate, which mixes classes and boxes, or maps of '
                    f'logits, and a {type(head).__name__} predicts more than these. Take heads '
                    'such as GFLHead, RetinaHead or PSPHead, or `peers` that teach each other '
                    'without a Gate.'
                )
        check_geometry({each.name: each.model for each in self._models})

    @property
    def _first(self) -> LiveTeacher:
        return self._models[0]

    def connect(self, student: Host) -> None:
        """Build the gate."""
        read = 'backbone_features' if self.at.startswith('backbone.') else 'features'
        channels = self._first.channels(self.at, read)
        self._linear = nn.Linear(channels, len(self.of))

    @property
    def module(self) -> nn.Linear:
        """The gate."""
        if self._linear is None:
            raise RuntimeError('The gate was not built: call connect(student) first.')
        return self._linear

    @property
    def info(self) -> HostInfo:
        """What has to agree with the student, and agrees among the models."""
        return self._first.info

    @property
    def loaded(self) -> bool:
        """Whether :meth:`load` was called."""
        return self._loaded

    def load(self, student: Host) -> None:
        """Nothing is to be loaded."""
        self._loaded = True

    def offers(self, read: str) -> bool:
        """Whether its views have a property of this name: nothing that is not mixed."""
        return read not in NOT_MIXED and self._first.offers(read)

    def channels(self, stage: int | str, read: str = 'features') -> int:
        """Raise SetupError: features are not mixed."""
        raise SetupError(
            f'The {self.name} is a Gate, which mixes predictions and no features. Let losses on '
            'features look at one of the models.'
        )

    def view(self, batch: Batch, student: View | None = None) -> View:
        """What losses may look at: the gated mean, detached.

        Args:
            batch: not used: the passes are of the training's batch.
            student: the view of who learns.
        """
        if student is None:
            raise RuntimeError(f'{self.name} is looked at by a student, whose view is needed.')
        passes = [each.own_pass for each in self._models]
        first = passes[0]
        share = self.shares(first)
        self._mixed = mixed = type(first)(first.model, first.batch, student=student)
        mixed.features = first.features  # all else is computed anew, of what is mixed
        for name in MIXED:
            if hasattr(type(mixed), name):
                values = [getattr(each, name) for each in passes]
                vars(mixed)[name] = _mix(values, share)
        return mixed.looked_at_by(student)

    def shares(self, own: View) -> Tensor:
        """What each model counts for each image, (N, M), summing to 1.

        Args:
            own: the first model's view of its pass.
        """
        pooled = own.stage(self.at).float().mean(dim=(-2, -1))
        with torch.autocast(pooled.device.type, enabled=False):
            return self.module(pooled).softmax(dim=1)

    def own_losses(self, view: View, student: View) -> dict[str, Tensor]:
        """The host's own loss of the mean, which trains the gate and all models."""
        mixed, self._mixed = self._mixed, None
        if isinstance(mixed, SegmentationView):
            losses = mixed.head.loss_by_feat(mixed.seg_logits, mixed.batch.samples)
        elif isinstance(mixed, DenseView):
            truth, ignored, metas = unpack_gt_instances(mixed.batch.samples)
            outputs = mixed.cls_logits, mixed.box_logits
            losses = mixed.head.loss_by_feat(*outputs, truth, metas, ignored)
        else:
            return {}
        return {
            name.removeprefix('loss_'): total(value) * self.task_weight
            for name, value in losses.items()
            if 'loss' in name
        }


def total(loss: Tensor | Sequence[Tensor]) -> Tensor:
    """One of a host's losses, which may be a list with one for each level, as a scalar."""
    parts = [loss] if isinstance(loss, Tensor) else list(loss)
    return torch.stack([each.mean() for each in parts]).sum()


def _mix(values: Sequence[Any], share: Tensor) -> Any:
    """The weighted sum of maps (N, C, H, W), or of lists of them."""
    if isinstance(values[0], Tensor):
        stacked = torch.stack([each.float() for each in values])
        return (share.T.reshape(*share.T.shape, 1, 1, 1) * stacked).sum(dim=0)
    return [_mix(levels, share) for levels in zip(*values, strict=True)]
