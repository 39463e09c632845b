"""Several models of one head geometry as one teacher: the mean of what they predict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host, numbered_generator
from ..hosts.heads import box_encoding, predicts_bins
from ..losses.checks import check_choice
from ..losses.maps import resized, resized_masks, size_of
from ..registry import TEACHERS
from ..views import (
    Batch,
    HostInfo,
    OneStageView,
    SegmentationView,
    TwoStageView,
    View,
    readable,
    view_class,
)
from .averaging import average, average_sigmoid, average_softmax
from .base import Teacher
from .build import teacher_from

# features of two models have no common basis
NOT_AVERAGED = ('features', 'backbone_features', 'head_features', 'detections')
FUSION = (
    'Finished detections of any detectors are fused, for evaluation: `kd-dense test` of a config '
    "with `model=dict(type='kd_dense.WeightedBoxesFusion', members=...)`"
)


@TEACHERS.register_module()
class Ensemble(Teacher):
    """The mean of several finished models, prediction by prediction, before anything is decoded.

    Class scores and distributions over bins are averaged as probabilities, and the logits are those
    of their mean; deltas and distances are averaged as they are. Two-stage members all score the
    student's proposals. Features are not averaged: losses on those look at one model, which is a
    teacher of its own beside the ensemble.

    Sources: [1] Hinton et al., arXiv 1503.02531 (soft targets of an ensemble are the mean of its
    members' probabilities); [2] Furlanello et al., arXiv 1805.04770 (ensembles of generations).

    Args:
        members: teachers by name, as of a distiller: ``a=dict(config=..., checkpoint=...)``.
        same_classes: see :class:`Teacher`.
        pick: ``'all'``, the mean of all; or ``'random'``, one of them in each step, at the cost of
            one: the target is the mean over the steps. Which is drawn by seed and step, so that a
            resumed training draws the same; each rank draws its own.
        seed: of the draws.

    Raises:
        SetupError: no members, one that cannot be built, or an unknown choice.
    """

    def __init__(
        self,
        members: Mapping[str, Mapping[str, Any] | Teacher],
        same_classes: bool = True,
        pick: Literal['all', 'random'] = 'all',
        seed: int = 0,
    ) -> None:
        check_choice('pick', pick, ('all', 'random'))
        if not isinstance(members, Mapping) or not members:
            raise SetupError(
                'An Ensemble has `members=dict(a=dict(config=..., checkpoint=...), b=...)`; found '
                f'{members!r}.'
            )
        self.members = {name: teacher_from(each, name) for name, each in members.items()}
        self.same_classes = same_classes
        self.pick = pick
        self.seed = seed
        self.source = ', '.join(each.source for each in self.members.values())
        self.untrained = any(each.untrained for each in self.members.values())
        self._agree = False

    @property
    def _first(self) -> Teacher:
        return next(iter(self.members.values()))

    def connect(self, student: Host) -> None:
        """Connect the members.

        Raises:
            SetupError: one trains something of its own.
        """
        for name, member in self.members.items():
            member.connect(student)
            if member.module is not None:
                raise SetupError(
                    f'members.{name} ({type(member).__name__}) trains with the student; the '
                    'members of an Ensemble are finished models.'
                )

    @property
    def info(self) -> HostInfo:
        """What has to agree with the student, and agrees among the members.

        Raises:
            SetupError: predictions of one mean something else than those of another.
        """
        if not self._agree:
            check_geometry({name: each.model for name, each in self.members.items()})
            self._agree = True
        return self._first.info

    @property
    def model(self) -> Host | None:
        """The first member's, for checks."""
        return self._first.model

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The first member's; those of the others are there too.

        Raises:
            FileNotFoundError: one is not there.
            SetupError: one is no checkpoint.
        """
        first, *_ = [each.read_checkpoint() for each in self.members.values()]
        return first

    def offers(self, read: str) -> bool:
        """Whether its views have a property of this name: no features."""
        return read not in NOT_AVERAGED and self._first.offers(read)

    def channels(self, stage: int | str, read: str = 'features') -> int:
        """Raise SetupError: there is nothing to adapt to, features are not averaged."""
        raise SetupError(
            f'The {self.name} is an Ensemble, whose members have no features in common. Let losses '
            'on features look at one of the models, as a teacher of its own: `teachers=dict(all='
            "dict(type='kd_dense.Ensemble', ...), one=dict(config=..., checkpoint=...))`."
        )

    @property
    def loaded(self) -> bool:
        """Whether the weights of all members are there."""
        return all(each.loaded for each in self.members.values())

    def load(self, student: Host) -> None:
        """Load and verify all members, once.

        Args:
            student: the student's model, whose preprocessing the images come in.

        Raises:
            FileNotFoundError: a config or checkpoint is not there.
            SetupError: a checkpoint does not fit, or members do not agree.
        """
        if self.loaded:
            return
        _ = self.info
        known: dict[str, tuple[str, ...]] = {}
        for name, member in self.members.items():
            member.load(student)
            if member.classes is not None:
                known[name] = member.classes
        if len(set(known.values())) > 1:
            told = '; '.join(f'{name}: {", ".join(classes)}' for name, classes in known.items())
            raise SetupError(
                f'The members of the {self.name} know other classes, or in another order ({told}). '
                'Take models that were trained on the same ones.'
            )
        self.classes = next(iter(known.values()), None)
        way = 'one at a time' if self.pick == 'random' else 'their mean'
        print_log(f'The {self.name} is {len(self.members)} models, {way}.', 'current')

    def view(self, batch: Batch, student: View | None = None) -> View:
        """What losses may look at for one batch: the mean of the members' predictions.

        Args:
            batch: the student's batch, images (N, 3, H, W) normalised for the student.
            student: the student's view, whose proposals two-stage members score.
        """
        views = [each.view(batch, student) for each in self._asked()]
        for kind, averaged in AVERAGED.items():
            if isinstance(views[0], kind):
                return averaged(views, batch, student)
        raise SetupError(_only_features(self._first.model))

    def _asked(self) -> list[Teacher]:
        """The members that show something of this step."""
        members = list(self.members.values())
        if self.pick == 'all':
            return members
        step = int(MessageHub.get_current_instance().runtime_info.get('iter', 0))
        draw = torch.randint(len(members), (), generator=numbered_generator(self.seed, step))
        return [members[int(draw)]]

    def after_step(self, student: Host) -> None:
        """Let the members do what they do behind each step."""
        for each in self.members.values():
            each.after_step(student)

    def predictor(self) -> nn.Module:
        """A model that predicts as the ensemble does."""
        from .predicting import EnsembleModel  # which builds itself by this class

        return EnsembleModel.of({name: each.predictor() for name, each in self.members.items()})


def check_geometry(models: Mapping[str, Host | None]) -> None:
    """Check that what models predict can be averaged: it means the same, position by position.

    Args:
        models: by name.

    Raises:
        SetupError: it does not.
    """
    told: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        if model is None or view_class(model).family not in KNOWN:
            raise SetupError(_only_features(model))
        told[name] = _geometry(model)
    (first, expected), *others = told.items()
    for name, found in others:
        for what in {**expected, **found}:
            if expected.get(what) != found.get(what):
                raise SetupError(
                    f'{first} and {name} cannot be averaged before decoding: {what} is '
                    f'{expected.get(what)} of the one and {found.get(what)} of the other. {FUSION}.'
                )


def _geometry(model: Host) -> dict[str, Any]:
    """All that has to agree, in words."""
    view = view_class(model)
    info = view.describe(model)
    found: dict[str, Any] = {info.compared()['family']: info.family}
    if issubclass(view, SegmentationView):  # maps of any size are brought to that of the first
        names = ('num_classes', 'activation')
        return found | {info.compared()[name]: getattr(info, name) for name in names}
    found['kind of head'] = info.head
    found |= {words: getattr(info, name) for name, words in info.compared().items()}
    for head in (view.head_of(model), *_second_stage(view, model)):
        found[f'encoding of the {type(head).__name__}'] = box_encoding(head)
    return found


def _second_stage(view: Any, model: Host) -> list[Host]:
    return [view.box_head_of(model)] if issubclass(view, TwoStageView) else []


def _only_features(model: Host | None) -> str:
    kind = type(model).__name__
    return f'What a {kind} computes is not averaged. {FUSION}.'


# -- views -----------------------------------------------------------------------------------------


class _Averaged(View):
    """What views of means share: the members' views, and no features.

    Args:
        members: views of the members.
        batch, student: see :class:`~kd_dense.views.View`.
    """

    members: Sequence[Any]

    def __init__(self, members: Sequence[View], batch: Batch, student: View | None) -> None:
        super().__init__(members[0].model, batch, student=student)
        self.members = members

    @readable(agree=('family', 'strides'))
    def features(self) -> tuple[Tensor, ...]:
        """Raise SetupError: they are not averaged."""
        raise SetupError('Features of several models are not averaged: look at one of them.')

    @cached_property
    def level_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of each level's map of the first member."""
        return self.members[0].level_sizes

    def precompute(self, names: Iterable[str]) -> None:
        """Compute of some properties, in each member, what needs no student to have run."""
        for index, each in enumerate(self.members):
            each.label = f'{self.label}.{index}'
            each.precompute(names)


class _AveragedDense(_Averaged):
    """Means of the outputs of dense heads."""

    def _class_maps(self) -> list[Tensor]:
        levels = zip(*(each.cls_logits for each in self.members), strict=True)
        return [average_classes(maps, self.head) for maps in levels]

    def _box_maps(self) -> list[Tensor]:
        levels = zip(*(each.box_logits for each in self.members), strict=True)
        return [average_boxes(maps, self.head) for maps in levels]


class AveragedOneStage(_AveragedDense, OneStageView):
    """What losses may look at in the mean of one-stage detectors."""


class AveragedTwoStage(_AveragedDense, TwoStageView):
    """What losses may look at in the mean of two-stage detectors."""

    @cached_property
    def _roi_outputs(self) -> tuple[Tensor, Tensor]:
        logits = [each.roi_cls_logits for each in self.members]
        deltas = [each.roi_deltas for each in self.members]
        return average_proposals(logits, self.box_head), average(deltas)

    @readable(agree=('family', 'num_classes', 'masks'), ahead='features')
    def mask_logits(self) -> Tensor:
        """Mask logits of the student's proposals with a mask, (M, h, w), at the first's size."""
        return average_masks([each.mask_logits for each in self.members])


class AveragedSegmentation(_Averaged, SegmentationView):
    """What losses may look at in the mean of segmentors."""

    @cached_property
    def _decoded(self) -> Tensor:
        return average_pixels([each.seg_logits for each in self.members])

    @readable(agree=('family', 'num_classes', 'activation'))
    def aux_logits(self) -> tuple[Tensor, ...]:
        """Class logits of the auxiliary heads, each (N, K, h, w)."""
        heads = zip(*(each.aux_logits for each in self.members), strict=True)
        return tuple(average_pixels(maps) for maps in heads)


AVERAGED: dict[type[View], Any] = {
    OneStageView: AveragedOneStage,
    TwoStageView: AveragedTwoStage,
    SegmentationView: AveragedSegmentation,
}
KNOWN = tuple(kind.family for kind in AVERAGED)


# -- what a head's outputs are the mean of ---------------------------------------------------------


def average_classes(maps: Sequence[Tensor], head: Any) -> Tensor:
    """The mean class logits of one level of a dense head.

    Args:
        maps: of the members, (N, A * K, H, W), or A * (K + 1) by softmax.
        head: a member's, or one like it.
    """
    if head.use_sigmoid_cls:
        return average_sigmoid(maps)
    return _by_group(maps, head.cls_out_channels)


def average_boxes(maps: Sequence[Tensor], head: Any) -> Tensor:
    """The mean encoded boxes of one level of a dense head.

    Args:
        maps: of the members, (N, A * 4, H, W), or (N, 4 * bins, H, W).
        head: a member's, or one like it.
    """
    if not predicts_bins(head):
        return average(maps)
    return _by_group(maps, head.reg_max + 1)


def average_proposals(logits: Sequence[Tensor], head: Any) -> Tensor:
    """The mean class logits of a second stage, (R, K + 1), or (R, K) of independent classes."""
    if getattr(head.loss_cls, 'use_sigmoid', False):
        return average_sigmoid(logits)
    return average_softmax(logits, dim=-1)


def average_masks(masks: Sequence[Tensor]) -> Tensor:
    """The mean mask logits of proposals, (M, h, w), at the size of the first member's."""
    size = size_of(masks[0])
    return average_sigmoid([resized_masks(each, size) for each in masks])


def average_pixels(maps: Sequence[Tensor]) -> Tensor:
    """The mean class logits of a segmentor, (N, K, h, w), at the size of the first member's map."""
    size = size_of(maps[0])
    maps = [resized(each.float(), size) for each in maps]
    return average_softmax(maps, dim=1) if maps[0].shape[1] > 1 else average_sigmoid(maps)


def _by_group(maps: Sequence[Tensor], channels: int) -> Tensor:
    """The mean of distributions that lie side by side in the channels of maps (N, C, H, W)."""
    grouped = [each.unflatten(1, (-1, channels)) for each in maps]
    return average_softmax(grouped, dim=2).flatten(1, 2)
