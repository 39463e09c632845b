"""The distiller: student, frozen teacher and named losses as one mmengine model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .checkpoints import STUDENT_PREFIX
from .errors import SetupError
from .hosts import ModelSource, build_model, own_randomness, read_model_config
from .left_out import LeftOut
from .losses.base import DistillationLoss
from .registry import MODELS
from .teacher import Teacher, teacher_from
from .verify import check_classes, check_pair
from .views import Batch, view_class


@MODELS.register_module()
class Distiller(BaseModel):
    """A student that trains by its own loss and by what a teacher knows.

    The student's own loss runs unchanged; each distillation loss then reads the student's view and
    the teacher's, and is logged as ``loss_kd_NAME``. The teacher runs once per batch, as deep as
    the losses read it, and not at all while every weight is zero. Predicting is the student's
    business alone: testing needs no teacher. A distillation loss that is not finite is left out of
    its step, and reported.

    Args:
        student: config of the student: a dict, a path or an ``mmdet::`` name.
        teacher: see :class:`~kd_dense.teacher.Teacher`.
        losses: configs of distillation losses by name.
        data_preprocessor: the student's, where its own config has none.
        init_cfg: as in mmengine.

    Raises:
        ValueError: no losses, or teacher and student that no view fits.
        FileNotFoundError: a config that is not there.
    """

    def __init__(
        self,
        student: ModelSource,
        teacher: Mapping[str, Any] | Teacher,
        losses: Mapping[str, Mapping[str, Any]],
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        student_config = read_model_config(student, 'student')
        if data_preprocessor is not None:
            student_config.setdefault('data_preprocessor', data_preprocessor)
        model = build_model(student_config)
        super().__init__(data_preprocessor=model.data_preprocessor, init_cfg=init_cfg)
        self.student = model
        self.teacher = teacher_from(teacher)
        self._view = view_class(model)
        self._classes_checked = False
        with own_randomness():
            self.losses = nn.ModuleDict({name: MODELS.build(dict(c)) for name, c in losses.items()})
            for name, loss in self.losses.items():
                _check_loss(name, loss)
                loss.name = name
                loss.connect(self.student, lambda: self.teacher.model)
        # a discriminator has its own optimizer, which averages over the ranks itself
        self._ddp_params_and_buffers_to_ignore = [
            f'losses.{name}.{part}' for name, loss in self.losses.items() for part in loss.apart()
        ]
        self._left_out = LeftOut('kd_left_out')

    def init_weights(self) -> None:
        """Initialise the student its own way; load and verify the teacher before the first step."""
        self.student.init_weights()
        with own_randomness():
            for loss in self.losses.values():
                loss.init_weights()
        self.load_teacher()

    def load_teacher(self) -> None:
        """Load the teacher and verify the pair; without effect when done.

        Raises:
            FileNotFoundError: the teacher's config or checkpoint is not there.
            ValueError: teacher and student do not fit.
        """
        if self.teacher.loaded:
            return
        check_pair(self.student, self.teacher.model, self.losses, self.teacher.same_classes)
        self.teacher.load(self.student)

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
            return self.loss(inputs, data_samples)
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
                values[name] = self.losses[name].nothing(inputs)
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
        batch = Batch(inputs, data_samples)
        student = self._view(self.student, batch)
        if not self._any_active():
            losses = self.student(inputs, data_samples, mode='loss')
            return losses, {name: loss.nothing(inputs) for name, loss in self.losses.items()}
        teacher = self.teacher.view(batch, student)
        # the teacher runs first: what it needs meanwhile is free again before the student's
        # activations, kept for the backward pass, fill the memory
        teacher.read_ahead(self._read_of_teacher())
        with student.noting_loss():
            losses = self.student(inputs, data_samples, mode='loss')
        with torch.autocast(inputs.device.type, enabled=False):
            values = {
                name: loss(student, teacher) * loss.scale if loss.active else loss.nothing(inputs)
                for name, loss in self.losses.items()
            }
        return losses, values

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

    def _read_of_teacher(self) -> list[str]:
        """What the active losses read of the teacher, who makes no assignment of its own."""
        read = {what for loss in self.losses.values() if loss.active for what in loss.reads}
        return sorted(read - {'assignment'})

    def _check_classes(self) -> None:
        """Compare class names with the training set's, which mmengine tells before training."""
        if self._classes_checked:
            return
        meta = MessageHub.get_current_instance().runtime_info.get('dataset_meta') or {}
        if self.teacher.same_classes:
            check_classes(meta.get('classes'), self.teacher.classes, self.teacher.checkpoint)
        self._classes_checked = True


def _check_loss(name: str, loss: nn.Module) -> None:
    if not isinstance(loss, DistillationLoss):
        raise SetupError(
            f'losses.{name} is a {type(loss).__name__}, which is no distillation loss. Use the '
            "types of kd_dense, such as 'kd_dense.LocalizationDistillation'."
        )


def _accept_plain_student(distiller: Distiller, state: dict[str, Tensor], prefix: str) -> None:
    """Let a plain student checkpoint serve as ``load_from``.

    Raises:
        ValueError: the checkpoint holds nothing of the student.
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
