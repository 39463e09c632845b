"""A finished model as the teacher: verified, frozen, shown the images its own way."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
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
from ..views import Batch, View, view_class
from .folding import fold_batch_norms
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
        same_classes: whether teacher and student must know the same classes in the same order.
            Turn it off only for losses that read no class scores.
        untrained: allow a teacher without checkpoint (to measure speed or memory, say).
        classes: for a teacher of other or fewer classes, ``'by name'``: its classes are found among
            the training set's; or a dict of what the training set calls them, where the names
            differ. Only losses that ask which is which may read its classes then.
        trust: read a checkpoint that holds more than weights, which may run its code.

    Raises:
        SetupError: an unknown precision, no checkpoint, or a word where True or False belongs.
    """

    def __init__(
        self,
        config: ModelSource,
        checkpoint: str | Path | None = None,
        dtype: str = 'float32',
        fast: bool = True,
        same_classes: bool = True,
        untrained: bool = False,
        trust: bool = False,
        classes: Literal['by name'] | Mapping[str, str] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise SetupError(f'teacher.dtype is {dtype!r}; choose one of {", ".join(DTYPES)}.')
        switches = dict(fast=fast, same_classes=same_classes, untrained=untrained, trust=trust)
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise SetupError(f'teacher.{name} is {value!r}; it is True or False.')
        if checkpoint is None and not untrained:
            raise SetupError(
                'The teacher has no checkpoint. Name one (`teacher.checkpoint=PATH_OR_URL`); an '
                'untrained teacher teaches noise. To measure speed with one, set '
                '`teacher.untrained=True`.'
            )
        self.config = config
        self.checkpoint = None if checkpoint is None else str(checkpoint)
        self.source = self.checkpoint or 'an untrained teacher'
        self.untrained = checkpoint is None
        self.dtype = DTYPES[dtype]
        self.fast = fast
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
        self._loaded = False
        self._has_weights = False
        self._renormalize: Renormalize | None = None

    @classmethod
    def of(cls, model: nn.Module, **options: Any) -> FrozenTeacher:
        """A teacher around a model that is there already, with the weights it has.

        Args:
            model: a built model.
            options: ``dtype``, ``fast`` and ``same_classes``.
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
        if self.dtype == torch.float32:
            return self.model
        return copy.deepcopy(self.model).float()  # suppression knows no half precision

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
            images = self._renormalize(batch).to(self.dtype)
            if self.fast:
                images = images.contiguous(memory_format=torch.channels_last)
        own = Batch(images, batch.samples)
        view = view_class(self.model)(self.model, own, inference(device), student)
        view.class_map = self.class_map
        return view
