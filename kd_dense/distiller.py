"""The distiller: a student, teachers and named losses as one mmengine model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.profiler import record_function

from .errors import SetupError
from .hosts import Host, ModelSource, build_model, isolated_rng, read_model_config
from .hosts.checkpoints import STUDENT, accept_plain
from .inherit import Inheritance
from .live_optim import NAME as ONE_FOR_EACH
from .live_optim import LiveOptimWrapper
from .losses.base import DistillationLoss, Losses
from .losses.build import build_losses
from .memory import give_back
from .nonfinite import LossGuard, StepGuard
from .own_loss import check_own_loss, precision, weighted
from .pair import check_classes, check_pair
from .partly import rest_frozen, train_only, unreached
from .peers import build_peers
from .registry import MODELS
from .sights import Sights
from .teachers import LiveTeacher, Teacher, build_teachers
from .unlabelled import check_unlabelled, parted
from .unlabelled.check import SUFFIX, check_all_labelled, tell_who_learns
from .views import Batch, NotAnnotated, View, view_class


@MODELS.register_module()
class Distiller(BaseModel):
    """A student that trains by its own loss and by what its teachers know.

    The student's own loss runs unchanged; each distillation loss then reads the student's view and
    its teacher's, and is logged as ``loss_kd_NAME``. A teacher runs once per batch, as deep as
    the losses read it, and not at all while the weights of all its losses are zero. Predicting is
    the student's business alone: testing needs no teacher. A distillation loss that is not finite
    is left out of its step, a step whose gradients are not finite is left out whole, and both are
    reported.

    Args:
        student: config of the student: a dict, a path or an ``mmdet::`` name.
        teacher: of one teacher, called ``'teacher'``: the arguments of a
            :class:`~kd_dense.teachers.FrozenTeacher`, or of another kind that ``type`` names.
        losses: configs of distillation losses by name. Besides its own arguments a loss may have
            ``teacher``, the name of the one that it looks at, which may be left out where there is
            one only, and ``student``, who learns.
        data_preprocessor: the student's, where its own config has none.
        init_cfg: as in mmengine.
        teachers: several teachers by name, in place of ``teacher``.
        inherit: what the student starts with of its (first) teacher: names of parts such as
            ``['neck', 'bbox_head']``, or True for all but the backbone; False for nothing. They
            are copied when weights are initialised, so a checkpoint that is loaded afterwards
            (``load_from``, ``--resume``) wins.
        own_loss: whether the student's own loss runs. Without it no annotation is read, so images
            need none, and the student runs as deep as losses read it.
        trains: parts of the student that train, ``('backbone', 'neck')``; all of it by default. The
            others are frozen, weights and batch statistics.
        own_weight: what the student's own losses are multiplied by, as they are logged.
        peers: students that train beside this one and are not shipped, by name: the arguments of a
            :class:`~kd_dense.peers.Peer`. Losses may name them as ``student`` and as ``teacher``.
            Their own losses are logged as ``NAME.loss_...``.
        unlabelled_weight: what the losses of images without labels, whose samples say
            ``labelled=False``, are multiplied by besides their own weights. The own loss runs on
            the other images alone; distillation losses that need no annotation are taken of these
            too, and logged as ``loss_kd_NAME_unlabelled``. None where all images are labelled.

    Raises:
        SetupError: no or unknown teachers, nobody to inherit from, a teacher and a student that no
            view fits, a part that the student does not have, or a weight that is none.
        FileNotFoundError: a config that is not there.
    """

    def __init__(
        self,
        student: ModelSource,
        teacher: Mapping[str, Any] | Teacher | None = None,
        losses: Mapping[str, Mapping[str, Any]] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
        teachers: Mapping[str, Mapping[str, Any] | Teacher] | None = None,
        inherit: bool | str | Sequence[str] = False,
        own_loss: bool = True,
        trains: Sequence[str] | None = None,
        own_weight: float = 1.0,
        peers: Mapping[str, Mapping[str, Any]] | None = None,
        unlabelled_weight: float | None = None,
    ) -> None:
        check_own_loss(own_loss, own_weight)
        student_config = read_model_config(student, STUDENT)
        if data_preprocessor is not None:
            student_config.setdefault('data_preprocessor', data_preprocessor)
        model: Host = build_model(student_config)
        super().__init__(data_preprocessor=model.data_preprocessor, init_cfg=init_cfg)
        self.student: Host = model
        self.own_loss = own_loss
        self.own_weight = own_weight
        self.trains = None if trains is None else _names(trains)
        if self.trains is not None:
            train_only(model, self.trains)
        self.teachers = build_teachers(teacher, teachers, bool(peers))
        self.peers = build_peers(peers or {}, model, list(self.teachers))
        self.live = {STUDENT: LiveTeacher(model, STUDENT)}
        self.live |= {peer.name: peer.seen for peer in self.peers.all()}
        if inherit and not self.teachers:
            raise SetupError('`inherit` copies parts of a finished teacher, and there is none.')
        self._inheritance = Inheritance(inherit)
        self._view = view_class(model)
        self._classes_checked = False
        self._reach_checked = own_loss
        self.losses: Losses
        with isolated_rng():
            for each in self.teachers.values():
                each.meet(self.live)
                each.connect(self.student)
            self.losses = build_losses(losses or {}, list(self.teachers), list(self.peers))
            for loss in self.losses.values():
                loss.connect(self.live[loss.student_name].model, self._looked_at(loss))
        if not own_loss and not self.losses:
            raise SetupError('With `own_loss=False` and no `losses` there is nothing to train by.')
        if unlabelled_weight is not None:
            check_unlabelled(
                unlabelled_weight, own_loss, list(self.losses), self.teachers, list(self.peers)
            )
        self.unlabelled_weight = unlabelled_weight
        self.need_labels: set[str] = set()  # names of losses that have asked for annotations
        trained = {name: each.module for name, each in self.teachers.items()}
        if kept := {name: module for name, module in trained.items() if module is not None}:
            self.teacher_modules = nn.ModuleDict(kept)
        # what has an optimizer of its own is averaged over the ranks by that
        self._ddp_params_and_buffers_to_ignore = [
            f'losses.{name}.{part}'
            for name, loss in self.losses.items()
            for part in loss.unsynced_parameters()
        ]
        # what losses with an optimizer of their own were shown of the batch, for that optimizer
        self.shown: dict[str, Any] = {}
        self._loss_guard = LossGuard()
        self.step_guard = StepGuard()
        self._followed = 0  # steps of the student's optimizer that teachers were told of

    @property
    def teacher(self) -> Teacher:
        """The teacher; of several the first, or the first peer."""
        return next(iter([*self.teachers.values(), *[p.seen for p in self.peers.all()]]))

    def losses_of(self, teacher: str, student: str = STUDENT) -> dict[str, DistillationLoss]:
        """The losses of a pair, by name.

        Args:
            teacher: name of who is looked at.
            student: name of who learns.
        """
        pair = (teacher, student)
        found = self.losses.items()
        return {n: loss for n, loss in found if (loss.teacher_name, loss.student_name) == pair}

    @property
    def losses_of_student(self) -> dict[str, DistillationLoss]:
        """The losses that the student learns by, by name; those of its peers are not among them."""
        return {n: loss for n, loss in self.losses.items() if loss.student_name == STUDENT}

    def _looked_at(self, loss: DistillationLoss) -> Teacher:
        return {**self.live, **self.teachers}[loss.teacher_name]

    def init_weights(self) -> None:
        """Initialise the student its own way; load and verify the teachers, inherit parts."""
        self.student.init_weights()
        for peer in self.peers.all():
            peer.init_weights()
        with isolated_rng():
            for loss in self.losses.values():
                loss.init_weights()
        self.load_teacher()
        self._inheritance.copy(self.student, self.teacher)

    def load_teacher(self) -> None:
        """Load the teachers and verify each pair; without effect when done.

        Raises:
            FileNotFoundError: a teacher's config or checkpoint is not there.
            SetupError: teacher and student do not fit.
        """
        for name, teacher in {**self.teachers, **self.live}.items():
            if teacher.loaded:
                continue
            for student, learner in self.live.items():
                losses = self.losses_of(name, student)
                if losses or (student == STUDENT and name in self.teachers):
                    check_pair(learner.model, teacher, losses, student)
            if teacher is self.teacher:
                self._inheritance.check(self.student, teacher)
            teacher.load(self.student)

    def train(self, mode: bool = True) -> Distiller:
        """As in torch; the batch statistics of what does not train stay as they are."""
        super().train(mode)
        if self.trains is not None:
            rest_frozen(self.student, self.trains)
        return self

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """One step, as in mmengine; left out where its gradients are not finite."""
        if self.peers and not isinstance(optim_wrapper, LiveOptimWrapper):
            raise SetupError(
                'Students with peers have an optimizer each, or the gradient of one, clipped with '
                'the others, changes their steps. Set '
                f'`optim_wrapper.constructor={ONE_FOR_EACH!r}`.'
            )
        self.step_guard.watch(optim_wrapper)
        self.step_guard.keep_statistics(self)
        logs = super().train_step(data, optim_wrapper)
        self.after_step()
        return logs

    def after_step(self) -> None:
        """Let the teachers do what they do behind each step of the student's optimizer."""
        taken = self.step_guard.taken[STUDENT]
        if taken == self._followed:  # left out, or its gradient is accumulated
            return
        self._followed = taken
        for teacher in self.teachers.values():
            teacher.after_step(self.student)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'tensor',
    ) -> dict[str, Tensor] | list[BaseDataElement] | tuple[Tensor, ...]:
        """Run the student; in mode ``'loss'`` with the distillation losses.

        Args:
            inputs: normalised and padded images, (N, 3, H, W).
            data_samples: N annotated samples.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``, as in mmengine.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        return self.student(inputs, data_samples, mode=mode)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        accept_plain(state_dict, prefix, self.student)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def loss(self, inputs: Tensor, data_samples: list[BaseDataElement]) -> dict[str, Any]:
        """The student's own losses and ``loss_kd_NAME`` for each distillation loss.

        Args:
            inputs: normalised and padded images, (N, 3, H, W).
            data_samples: N annotated samples.
        """
        losses, values = self.both_losses(inputs, data_samples)
        if self._any_active():
            for name in self._loss_guard.not_finite(values):
                values[name] = self._nothing(self.losses[name.removesuffix(SUFFIX)], inputs)
        return losses | {f'loss_kd_{name}': value for name, value in values.items()}

    def both_losses(
        self, inputs: Tensor, data_samples: list[BaseDataElement]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The student's own losses, and the distillation losses by name, finite or not.

        Those of unlabelled images are called ``NAME_unlabelled``.

        Args:
            inputs: normalised and padded images, (N, 3, H, W).
            data_samples: N samples, annotated where they do not say ``labelled=False``.
        """
        self.load_teacher()
        self._check_classes()
        self.shown.clear()
        batch = Batch(inputs, data_samples)
        if self.unlabelled_weight is not None:
            return self._of_both_kinds(batch, self.unlabelled_weight)
        if self.own_loss:
            check_all_labelled(batch)
        return self._of_labelled(batch)

    def _of_both_kinds(
        self, batch: Batch, weight: float
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What labelled images give, and then the losses of those without labels."""
        labelled, unlabelled = parted(batch)
        if labelled is None:
            nothing = self._reaching_student(batch.images)
            losses: dict[str, Any] = {}
            values = {n: self._nothing(e, batch.images) + nothing for n, e in self.losses.items()}
        else:
            with labelled.counted():
                losses, values = self._of_labelled(labelled.batch)
            losses = weighted(losses, labelled.share)
            values = {name: value * labelled.share for name, value in values.items()}
        if unlabelled is None or not weight or not self._any_active():
            return losses, values
        candidates = [loss for name, loss in self.losses.items() if name not in self.need_labels]
        with unlabelled.counted(), record_function('kd_dense/unlabelled'):
            found = self._of_unlabelled(unlabelled.batch, candidates)
        if asking := {each.name for each in candidates} & self.need_labels:
            tell_who_learns([n for n, each in self.losses.items() if each.weight], asking)
        for name, loss in self.losses.items():
            if name not in self.need_labels:
                value = found.get(name, self._nothing(loss, batch.images))
                values[name + SUFFIX] = value * weight * unlabelled.share
        return losses, values

    def _of_labelled(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The student's own losses, and the distillation losses by name."""
        inputs = batch.images
        of_training = precision(inputs.device.type)
        on_cpu = inputs.device.type == 'cpu'
        student = self._view(self.student, batch, nullcontext if self.own_loss else of_training)
        student.annotated, student.own_weight = self.own_loss, self.own_weight
        # the teachers run first: what they need meanwhile is free again before the student's
        # activations, kept for the backward pass, fill the memory
        sights = Sights(self.live, self.teachers, self.losses.values())
        sights.look(batch, student)
        if on_cpu and sights.computed:
            give_back()
        with self.peers.sharing():
            with record_function('kd_dense/student'):
                losses = self._own_losses(student, sights)
            self.live[STUDENT].trained_by(student, of_training)
            for peer in self.peers.all():
                with record_function(f'kd_dense/{peer.name}'):
                    own = peer.train_on(batch)
                losses = losses | {f'{peer.name}.{part}': value for part, value in own.items()}
            sights.look(batch, student, of_this_step=True)
        for teacher, view in sights.of_teachers():
            own = teacher.own_losses(view, student)
            losses = losses | {f'loss_{teacher.name}_{part}': v for part, v in own.items()}
        with torch.autocast(inputs.device.type, enabled=False):
            values = self._compare(sights, inputs)
        if on_cpu and sights.computed:
            give_back()
        for each in self.live.values():
            each.forget()  # what the pass holds of the graph
        if not self._reach_checked:
            self._check_reach(values)
        return losses, values

    @torch.no_grad()
    def losses_without_labels(
        self, inputs: Tensor, data_samples: list[BaseDataElement]
    ) -> dict[str, Tensor]:
        """The weighted losses by name, of those that the student learns by and need no annotation.

        Teachers that know the training set alone are not asked.

        Own losses do not run, and so nothing of what other models compute in theirs is looked at.

        Args:
            inputs: normalised and padded images, (N, 3, H, W).
            data_samples: N samples, annotated or not.
        """
        self.load_teacher()
        return self._of_unlabelled(Batch(inputs, data_samples), self.losses_of_student.values())

    def _of_unlabelled(self, batch: Batch, losses: Iterable[DistillationLoss]) -> dict[str, Tensor]:
        """The weighted losses by name, of those that need no annotation and no other's own loss."""
        of_training = precision(batch.images.device.type)
        student = self._view(self.student, batch, of_training)
        student.annotated = False
        everywhere = {n: each for n, each in self.teachers.items() if not each.of_training_set}
        learned = [each for each in losses if each.teacher_name in everywhere]
        sights = Sights(self.live, everywhere, learned)
        sights.look(batch, student)
        student.precompute({read for loss in sights.losses for read in loss.read_names()})
        self.live[STUDENT].trained_by(student, of_training)
        values = {}
        with torch.autocast(batch.images.device.type, enabled=False):
            for loss in sights.losses:
                if not everywhere[loss.teacher_name].of_this_step:
                    try:
                        values[loss.name] = loss(*sights.of(loss)) * loss.scale
                    except NotAnnotated:
                        self.need_labels.add(loss.name)
        self.live[STUDENT].forget()
        return values

    def _own_losses(self, student: View, sights: Sights) -> dict[str, Any]:
        """The student's own losses, times their weight; noted for losses that look at them."""
        if not self.own_loss:
            student.precompute({read for each in sights.losses for read in each.read_names()})
            return {}
        with student.recording() if sights.recorded else nullcontext():
            inputs, samples = student.batch.images, student.batch.samples
            losses = self.student(inputs, samples, mode='loss')
        if self.own_weight != 1:
            losses = weighted(losses, self.own_weight)
            student.own_losses = dict(losses)
        return losses

    def _compare(self, sights: Sights, inputs: Tensor) -> dict[str, Tensor]:
        """The weighted distillation losses by name; zero for those that do not count now."""
        values = {}
        for name, loss in self.losses.items():
            if not loss.active:
                values[name] = self._nothing(loss, inputs)
                continue
            student, teacher = sights.of(loss)
            with record_function(f'kd_dense/losses.{name}'):
                values[name] = _of_views(loss, student, teacher) * loss.scale
                if loss.has_optimizer:
                    self.shown[name] = loss.show(student, teacher)
        return values

    def _nothing(self, loss: DistillationLoss, inputs: Tensor) -> Tensor:
        """Zero in place of a loss, with a path to all that only this loss may reach."""
        nothing = loss.zero_like_parameters(inputs)
        return nothing if self.own_loss else nothing + self._reaching_student(inputs)

    def _reaching_student(self, inputs: Tensor) -> Tensor:
        """Zero with a path to all of the student that trains."""
        trained = [p.sum() for p in self.student.parameters() if p.requires_grad]
        return torch.stack(trained).sum() * 0 if trained else inputs.new_zeros(())

    def _check_reach(self, values: Mapping[str, Tensor]) -> None:
        """Check once that all that is to train gets a gradient, where no own loss gives one.

        Raises:
            SetupError: it does not.
        """
        if not torch.is_grad_enabled() or not all(loss.active for loss in self.losses.values()):
            return  # a loss that is off reaches all
        self._reach_checked = True
        if missing := unreached(values.values(), self.student):
            raise SetupError(
                f'With `own_loss=False` nothing trains {", ".join(missing)} of the student: its '
                'losses do not reach so far. Name the parts that train, such as '
                "`trains=('backbone', 'neck')`; the others are frozen then."
            )

    def _any_active(self) -> bool:
        return any(loss.active for loss in self.losses.values())

    def _check_classes(self) -> None:
        """Compare class names with the training set's, which mmengine tells before training."""
        if self._classes_checked:
            return
        meta = MessageHub.get_current_instance().runtime_info.get('dataset_meta') or {}
        for teacher in self.teachers.values():
            teacher.know_classes(meta.get('classes'))
            if teacher.same_classes:
                check_classes(meta.get('classes'), teacher.classes, teacher.source)
        self._classes_checked = True


def _names(trains: Sequence[str]) -> tuple[str, ...]:
    """Names of parts; one may be written without its tuple."""
    return (trains,) if isinstance(trains, str) else tuple(trains)


def _of_views(loss: DistillationLoss, student: View, teacher: View) -> Tensor:
    """The raw value of a loss.

    Raises:
        SetupError: it reads annotations, and this training does not.
    """
    try:
        return loss(student, teacher)
    except NotAnnotated as error:
        raise SetupError(
            f'losses.{loss.name} ({type(loss).__name__}): {error} Take a loss that needs no '
            "labels, such as hints with `region='all'`, or `own_weight=0` in place of "
            '`own_loss=False`, which reads the annotations and trains without them.'
        ) from None
