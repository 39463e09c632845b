"""The distiller: a student, teachers and named losses as one mmengine model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
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
from .hosts.checkpoints import STUDENT_PREFIX
from .inherit import Inheritance
from .losses.base import DistillationLoss, Losses
from .losses.build import build_losses
from .nonfinite import SkippedCounter, StepGuard
from .pair import check_classes, check_pair
from .partly import rest_frozen, train_only, unreached
from .registry import MODELS
from .teachers import Teacher, build_teachers
from .views import Batch, NotAnnotated, View, view_class

STUDENT = 'student'


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

    Raises:
        SetupError: no or unknown teachers, a teacher and a student that no view fits, a part that
            the student does not have, or a weight that is none.
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
    ) -> None:
        _check_own(own_loss, own_weight)
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
        self.teachers = build_teachers(teacher, teachers)
        self._inheritance = Inheritance(inherit)
        self._view = view_class(model)
        self._classes_checked = False
        self._reach_checked = own_loss
        self.losses: Losses
        with isolated_rng():
            for each in self.teachers.values():
                each.connect(self.student)
            self.losses = build_losses(losses or {}, list(self.teachers))
            for loss in self.losses.values():
                loss.connect(self.student, self.teachers[loss.teacher_name])
        if not own_loss and not self.losses:
            raise SetupError('With `own_loss=False` and no `losses` there is nothing to train by.')
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
        self._left_out = SkippedCounter('kd_left_out')
        self.step_guard = StepGuard()

    @property
    def teacher(self) -> Teacher:
        """The teacher; of several the first."""
        return next(iter(self.teachers.values()))

    def losses_of(self, teacher: str) -> dict[str, DistillationLoss]:
        """The losses that look at one teacher, by name.

        Args:
            teacher: its name.
        """
        return {n: loss for n, loss in self.losses.items() if loss.teacher_name == teacher}

    def init_weights(self) -> None:
        """Initialise the student its own way; load and verify the teachers, inherit parts."""
        self.student.init_weights()
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
        for name, teacher in self.teachers.items():
            if not teacher.loaded:
                check_pair(self.student, teacher, self.losses_of(name))
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
        self.step_guard.watch(optim_wrapper)
        self.step_guard.keep_statistics(self)
        logs = super().train_step(data, optim_wrapper)
        self.after_step()
        return logs

    def after_step(self) -> None:
        """Let the teachers do what they do behind each step of training."""
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
        _accept_plain_student(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def loss(self, inputs: Tensor, data_samples: list[BaseDataElement]) -> dict[str, Any]:
        """The student's own losses and ``loss_kd_NAME`` for each distillation loss.

        Args:
            inputs: normalised and padded images, (N, 3, H, W).
            data_samples: N annotated samples.
        """
        losses, values = self.both_losses(inputs, data_samples)
        if self._any_active():
            for name in self._not_finite(values):
                values[name] = self._nothing(self.losses[name], inputs)
        return losses | {f'loss_kd_{name}': value for name, value in values.items()}

    def both_losses(
        self, inputs: Tensor, data_samples: list[BaseDataElement]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The student's own losses, and the distillation losses by name, finite or not.

        Args:
            inputs: normalised and padded images, (N, 3, H, W).
            data_samples: N annotated samples.
        """
        self.load_teacher()
        self._check_classes()
        self.shown.clear()
        batch = Batch(inputs, data_samples)
        precision = nullcontext if self.own_loss else _precision(inputs.device.type)
        student = self._view(self.student, batch, precision)
        student.annotated, student.own_weight = self.own_loss, self.own_weight
        # the teachers run first: what they need meanwhile is free again before the student's
        # activations, kept for the backward pass, fill the memory
        seen = self._look(batch, student)
        with record_function('kd_dense/student'):
            if self.own_loss:
                losses = self._own_losses(student, bool(seen))
            else:
                losses = {}
                active = [loss for loss in self.losses.values() if loss.active]
                student.precompute({read for loss in active for read in loss.read_names()})
        for name, view in seen.items():
            own = self.teachers[name].own_losses(view, student)
            losses = losses | {f'loss_{name}_{part}': value for part, value in own.items()}
        with torch.autocast(inputs.device.type, enabled=False):
            values = self._compare(student, seen, inputs)
        if not self._reach_checked:
            self._check_reach(values)
        return losses, values

    @torch.no_grad()
    def losses_without_labels(
        self, inputs: Tensor, data_samples: list[BaseDataElement]
    ) -> dict[str, Tensor]:
        """The weighted distillation losses by name, of those in force that need no annotation.

        The student's own loss does not run.

        Args:
            inputs: normalised and padded images, (N, 3, H, W).
            data_samples: N samples, annotated or not.
        """
        self.load_teacher()
        device = inputs.device.type
        student = self._view(self.student, Batch(inputs, data_samples), _precision(device))
        student.annotated = False
        seen = self._look(student.batch, student)
        active = {name: loss for name, loss in self.losses.items() if loss.active}
        student.precompute({read for loss in active.values() for read in loss.read_names()})
        values = {}
        with torch.autocast(device, enabled=False):
            for name, loss in active.items():
                with suppress(NotAnnotated):
                    values[name] = loss(student, seen[loss.teacher_name]) * loss.scale
        return values

    def _own_losses(self, student: View, looked_at: bool) -> dict[str, Any]:
        """The student's own losses, times their weight; noted for losses that look at them."""
        with student.recording() if looked_at else nullcontext():
            inputs, samples = student.batch.images, student.batch.samples
            losses = self.student(inputs, samples, mode='loss')
        if self.own_weight != 1:
            losses = {
                name: _times(value, self.own_weight) if 'loss' in name else value
                for name, value in losses.items()
            }
            student.own_losses = dict(losses)
        return losses

    def _look(self, batch: Batch, student: View) -> dict[str, View]:
        """Views of the teachers that an active loss looks at, with what it reads computed."""
        seen = {}
        for name, teacher in self.teachers.items():
            active = [loss for loss in self.losses_of(name).values() if loss.active]
            if active:
                seen[name] = teacher.view(batch, student)
                seen[name].label = name
                seen[name].precompute({read for loss in active for read in loss.read_names()})
        return seen

    def _compare(
        self, student: View, teachers: Mapping[str, View], inputs: Tensor
    ) -> dict[str, Tensor]:
        """The weighted distillation losses by name; zero for those that do not count now."""
        values = {}
        for name, loss in self.losses.items():
            if not loss.active:
                values[name] = self._nothing(loss, inputs)
                continue
            teacher = teachers[loss.teacher_name]
            with record_function(f'kd_dense/losses.{name}'):
                values[name] = _of_views(loss, student, teacher) * loss.scale
                if loss.has_optimizer:
                    self.shown[name] = loss.show(student, teacher)
        return values

    def _nothing(self, loss: DistillationLoss, inputs: Tensor) -> Tensor:
        """Zero in place of a loss, with a path to all that only this loss may reach."""
        nothing = loss.zero_like_parameters(inputs)
        if self.own_loss:
            return nothing
        trained = [p.sum() for p in self.student.parameters() if p.requires_grad]
        return nothing + torch.stack(trained).sum() * 0

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

    def _not_finite(self, values: Mapping[str, Tensor]) -> list[str]:
        """Distillation losses that would spoil the student, to be left out of this step."""
        finite = torch.stack([v.detach() for v in values.values()]).isfinite().tolist()
        found = [name for name, fine in zip(values, finite, strict=True) if not fine]
        for name in found:
            self._left_out.note(
                name,
                f'loss_kd_{name} is not finite ({float(values[name].detach()):.4g}) and was left '
                'out of this step',
                'lower its weight or the learning rate, and look at the values of the teacher and '
                'the student',
            )
        return found

    def _check_classes(self) -> None:
        """Compare class names with the training set's, which mmengine tells before training."""
        if self._classes_checked:
            return
        meta = MessageHub.get_current_instance().runtime_info.get('dataset_meta') or {}
        for teacher in self.teachers.values():
            if teacher.same_classes:
                check_classes(meta.get('classes'), teacher.classes, teacher.source)
        self._classes_checked = True


def _accept_plain_student(distiller: Distiller, state: dict[str, Tensor], prefix: str) -> None:
    """Let a plain student checkpoint serve as ``load_from``.

    Raises:
        SetupError: the checkpoint holds nothing of the student.
    """
    ours = prefix + STUDENT_PREFIX
    if not any(key.startswith(ours) for key in state):
        for key in [k for k in state if k.startswith(prefix)]:
            state[ours + key[len(prefix) :]] = state.pop(key)
    known = distiller.student.state_dict()
    if not any(key.removeprefix(ours) in known for key in state):
        raise SetupError(
            f'The checkpoint fits no weight of the student ({type(distiller.student).__name__}): '
            f'it holds {[k.removeprefix(ours) for k in list(state)[:3]]}, the student '
            f'{list(known)[:3]}. Name a checkpoint of the student or of this distiller.'
        )


def _check_own(own_loss: Any, own_weight: Any) -> None:
    """Check what a config says of the student's own loss.

    Raises:
        SetupError: neither True nor False, a weight that is none, or one of a loss that is off.
    """
    if not isinstance(own_loss, bool):
        raise SetupError(f'own_loss is {own_loss!r}; it is True or False.')
    number = isinstance(own_weight, int | float) and not isinstance(own_weight, bool)
    if not number or not 0 <= own_weight < math.inf:
        raise SetupError(f'own_weight is {own_weight!r}; it is a finite number, 0 or more.')
    if not own_loss and own_weight != 1:
        raise SetupError(
            f'own_weight is {own_weight} of a loss that `own_loss=False` turns off. Leave one out: '
            '`own_weight=0` still runs the own loss, for losses that need its labels.'
        )


def _names(trains: Sequence[str]) -> tuple[str, ...]:
    """Names of parts; one may be written without its tuple."""
    return (trains,) if isinstance(trains, str) else tuple(trains)


def _times(value: Tensor | Sequence[Tensor], weight: float) -> Tensor | list[Tensor]:
    """One of a host's losses, which may be a list with one for each level, times a weight."""
    return value * weight if isinstance(value, Tensor) else [each * weight for each in value]


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


def _precision(device: str) -> Callable[[], AbstractContextManager[object]]:
    """The autocast in force now, to be entered again where the student runs inside the losses."""
    if hasattr(torch, 'get_autocast_dtype'):
        on, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    elif device == 'cpu':
        on, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        on, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return partial(torch.autocast, device, dtype=dtype, enabled=on)
