"""A finished model as the teacher: verified, frozen, shown the images its own way."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from torch import nn

from ..class_map import BY_NAME, ClassMap, map_classes
from ..errors import SetupError
from ..hosts import Host, ModelSource, build_model, isolated_rng, read_model_config
from ..hosts.checkpoints import class_names, load_completely, model_state, read_checkpoint
from ..hosts.pooling import pool_in_float32
from ..registry import TEACHERS
from ..views import Batch, HostInfo, View, view_class
from .compiling import compile_parts
from .folding import fold_batch_norms
from .larger import Larger, LargerModel, check_scale, enlarged, larger_view, not_offered
from .of_model import ModelTeacher, inference
from .renormalize import Renormalize

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@TEACHERS.register_module()
class FrozenTeacher(ModelTeacher):
    """A trained model that is only looked at.

    It is built when first asked for, loaded by :meth:`load`, and moves to the device of the images
    it is shown.

    Args:
        config: config of the teacher: a path, an ``mmdet::`` name, or a dict.
        checkpoint: path or URL of its weights.
        dtype: precision it runs in: ``'float32'``, ``'bfloat16'`` or ``'float16'``. The losses
            compute in float32 all the same.
        fast: fold batch norms into convolutions and use the channels-last layout. The outputs stay
            equal up to rounding; what cannot be folded without changing them is left as it is.
        compiled: run it through ``torch.compile``, which takes minutes at the start.
        same_classes: whether teacher and student must know the same classes in the same order.
            Turn it off only for losses that read no class scores.
        untrained: allow a teacher without checkpoint (to measure speed or memory, say).
        classes: for a teacher of other or fewer classes, ``'by name'``: its classes are found among
            the training set's; or a dict of what the training set calls them, where the names
            differ. Only losses that ask which is which may read its classes then.
        scale: how many times as large as the student's its images are, made so by interpolation.
            What it knows is brought to the student's grid (:mod:`kd_dense.teachers.larger`).
        trust: read a checkpoint that holds more than weights, which may run its code.

    Raises:
        SetupError: an unknown precision, no checkpoint, a word where True or False belongs, or a
            scale below 1.
    """

    def __init__(
        self,
        config: ModelSource,
        checkpoint: str | Path | None = None,
        dtype: str = 'float32',
        fast: bool = True,
        compiled: bool = False,
        same_classes: bool = True,
        untrained: bool = False,
        trust: bool = False,
        classes: Literal['by name'] | Mapping[str, str] | None = None,
        scale: float = 1,
    ) -> None:
        if dtype not in DTYPES:
            raise SetupError(f'teacher.dtype is {dtype!r}; choose one of {", ".join(DTYPES)}.')
        switches = dict(
            fast=fast,
            compiled=compiled,
            same_classes=same_classes,
            untrained=untrained,
            trust=trust,
        )
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise SetupError(f'teacher.{name} is {value!r}; it is True or False.')
        if checkpoint is None and not untrained:
            raise SetupError(
                'The teacher has no checkpoint. Name one (`teacher.checkpoint=PATH_OR_URL`); an '
                'untrained teacher teaches noise. To measure speed with one, set '
                '`teacher.untrained=True`.'
            )
        check_scale(scale)
        self.config = config
        self.checkpoint = None if checkpoint is None else str(checkpoint)
        self.source = self.checkpoint or 'an untrained teacher'
        self.untrained = checkpoint is None
        self.dtype = DTYPES[dtype]
        self.fast = fast
        self.compiled = compiled
        if not (classes is None or classes == BY_NAME or isinstance(classes, Mapping)):
            raise SetupError(
                f'teacher.classes is {classes!r}; it is {BY_NAME!r}, or a dict of what the '
                "training set calls the teacher's classes."
            )
        self.maps_classes = classes is not None
        self.renamed = dict(classes) if isinstance(classes, Mapping) else {}
        self.class_map: ClassMap | None = None
        self.same_classes = same_classes and not self.maps_classes
        self.trust = trust
        self.scale = scale
        self._loaded = False
        self._has_weights = False
        self._renormalize: Renormalize | None = None
        self._kind: type[Larger] | None = None  # of view, where it sees images of another size

    @classmethod
    def of(cls, model: nn.Module, **options: Any) -> FrozenTeacher:
        """A teacher around a model that is there already, with the weights it has.

        Args:
            model: a built model.
            options: ``dtype``, ``fast``, ``same_classes`` and ``scale``.
        """
        teacher = cls(config={}, untrained=True, **options)
        teacher.source, teacher.untrained = 'a model without checkpoint', False
        teacher.__dict__['model'] = model
        teacher._has_weights = True
        return teacher

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        return self  # frozen, so copies of the student (EMA) share it

    @cached_property
    def model(self) -> Host:
        """The teacher's model; its weights are there after :meth:`load`."""
        with isolated_rng(seed=0):
            model = build_model(read_model_config(self.config, 'teacher'))
        return model.eval().requires_grad_(False)

    def predictor(self) -> nn.Module:
        """The model; a copy in single precision where it runs in another."""
        model = self.model
        if self.dtype != torch.float32:
            model = copy.deepcopy(model).float()  # suppression knows no half precision
        return model if self.scale == 1 else LargerModel(model, self.scale)

    @property
    def info(self) -> HostInfo:
        """What has to agree with the student."""
        info = super().info
        if self.scale == 1:
            return info
        return replace(info, head=f'{info.head} at scale {self.scale:g}')

    def offers(self, read: str) -> bool:
        """Whether its views have a property of this name."""
        return super().offers(read) and read not in not_offered(self.model, self.scale)

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint; None where there is none.

        Raises:
            FileNotFoundError: the file is not there; for a config of ours with how to train it.
            SetupError: it is no checkpoint.
        """
        if self.checkpoint is None:
            return None
        ours = isinstance(self.config, str) and '::' not in self.config
        command = f'kd-dense train {self.config}'
        advice = f'Train the teacher first: {command}' if ours else ''
        return read_checkpoint(self.checkpoint, 'teacher', advice, self.trust)

    def know_classes(self, classes: Sequence[str] | None) -> None:
        """Find which of its classes is which of the training set's, where that is asked for.

        Raises:
            SetupError: one of the two tells no names, or they share none.
        """
        if not self.maps_classes or self.class_map is not None:
            return
        if classes is None or self.classes is None:
            who = 'the training set' if classes is None else f'the checkpoint {self.source}'
            raise SetupError(
                f'The classes of the {self.name} are to be found by name, and {who} tells none.'
            )
        self.class_map = found = map_classes(classes, self.classes, self.renamed)
        unknown = [name for name in classes if name not in found.names]
        print_log(
            f'The {self.name} knows {len(found.names)} of {len(classes)} classes: '
            f'{", ".join(found.names)}; not {", ".join(unknown) or "none"}.',
            'current',
        )

    @property
    def loaded(self) -> bool:
        """Whether the weights are there."""
        return self._loaded

    def load(self, student: Host) -> None:
        """Load and verify the weights, once; later calls return at once.

        Args:
            student: the student's model, whose preprocessing the images come in.

        Raises:
            FileNotFoundError: config or checkpoint is not there.
            SetupError: the checkpoint does not fit, or images cannot be shown the teacher's way.
        """
        if self._loaded:
            return
        model = self.model
        self._kind = None if self.scale == 1 else larger_view(model)
        self._renormalize = Renormalize(student.data_preprocessor, model.data_preprocessor)
        if self._has_weights:
            pass
        elif (checkpoint := self.read_checkpoint()) is None:
            with isolated_rng(seed=0):
                model.init_weights()
            print_log('The teacher is untrained: it teaches noise.', 'current', logging.WARNING)
        else:
            load_completely(model, model_state(checkpoint), self.source, 'teacher')
            self.classes = class_names(checkpoint)
            print_log(f'Teacher loaded completely from {self.checkpoint}.', 'current')
        if self.fast:
            fold_batch_norms(model)
            model.to(memory_format=torch.channels_last)
        model.to(self.dtype).eval().requires_grad_(False)
        pool_in_float32(model)
        if self.compiled:
            compile_parts(model)
        self._loaded = True

    def view(self, batch: Batch, student: View | None = None) -> View:
        """What losses may look at for one batch; the model runs as deep as is read, when read.

        Args:
            batch: the student's batch, images (N, 3, H, W) normalised for the student.
            student: the student's view, whose proposals a two-stage teacher scores.
        """
        if self._renormalize is None:
            raise RuntimeError('The teacher was not loaded: call Teacher.load(student) first.')
        device = batch.images.device
        self._renormalize.to(device)
        if next(self.model.parameters()).device != device:
            self.model.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            own = Batch(self._renormalize(batch), batch.samples)
            arguments = self.model, self._shown(own), inference(device), student
            if self._kind is None:
                view = view_class(self.model)(*arguments)
            else:
                larger = self._shown(enlarged(own, self.scale, self.model))
                view = self._kind(*arguments, larger, self.scale)
        view.class_map = self.class_map
        return view

    def _shown(self, batch: Batch) -> Batch:
        """A batch in its number type and layout."""
        images = batch.images.to(self.dtype)
        if self.fast:
            images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images, batch.samples)
