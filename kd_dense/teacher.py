"""The teacher: built, verified, frozen, with its own preprocessing, and run only when read."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.logging import print_log
from torch import Tensor, nn

from .checkpoints import class_names, load_completely, model_state, read_checkpoint
from .errors import SetupError
from .hosts import ModelSource, build_model, own_randomness, read_model_config
from .pooling import pool_in_float32
from .preprocessing import Renormalize
from .views import Batch, HostInfo, View, view_class

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


class Teacher:
    """A trained model that is only looked at.

    It is no ``nn.Module`` on purpose: so it is in no ``state_dict``, optimizer, DDP bucket or EMA
    copy, and ``train()`` of the student cannot reach it. It is built when first asked for, loaded
    by :meth:`load`, and moves to the device of the images it is shown.

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
    """

    def __init__(
        self,
        config: ModelSource,
        checkpoint: str | Path | None = None,
        dtype: str = 'float32',
        fast: bool = True,
        same_classes: bool = True,
        untrained: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise SetupError(f'teacher.dtype is {dtype!r}; choose one of {", ".join(DTYPES)}.')
        if checkpoint is None and not untrained:
            raise SetupError(
                'The teacher has no checkpoint. Name one (`teacher.checkpoint=PATH_OR_URL`); an '
                'untrained teacher teaches noise. To measure speed with one, set '
                '`teacher.untrained=True`.'
            )
        self.config = config
        self.checkpoint = None if checkpoint is None else str(checkpoint)
        self.dtype = DTYPES[dtype]
        self.fast = fast
        self.same_classes = same_classes
        self.classes: tuple[str, ...] | None = None
        self._loaded = False
        self._renormalize: Renormalize | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self  # frozen, so copies of the student (EMA) share it

    @cached_property
    def model(self) -> nn.Module:
        """The teacher's model; its weights are there after :meth:`load`."""
        with own_randomness(seed=0):
            model = build_model(read_model_config(self.config, 'teacher'))
        return model.eval().requires_grad_(False)

    @property
    def info(self) -> HostInfo:
        """What has to agree with the student."""
        return view_class(self.model).describe(self.model)

    def _how_to_train(self) -> str:
        if not isinstance(self.config, str) or '::' in self.config:
            return ''
        return f'Train the teacher first: python tools/train.py {self.config}'

    @property
    def loaded(self) -> bool:
        """Whether the weights are there."""
        return self._loaded

    def load(self, student: nn.Module) -> None:
        """Load and verify the weights, once; later calls return at once.

        Args:
            student: the student's model, whose preprocessing the images come in.

        Raises:
            FileNotFoundError: config or checkpoint is not there.
            ValueError: the checkpoint does not fit, or images cannot be shown the teacher's way.
        """
        if self._loaded:
            return
        model = self.model
        self._renormalize = Renormalize(student.data_preprocessor, model.data_preprocessor)
        if self.checkpoint is None:
            with own_randomness(seed=0):
                model.init_weights()
            print_log('The teacher is untrained: it teaches noise.', 'current', logging.WARNING)
        else:
            checkpoint = read_checkpoint(self.checkpoint, 'teacher', self._how_to_train())
            load_completely(model, model_state(checkpoint), self.checkpoint, 'teacher')
            self.classes = class_names(checkpoint)
            print_log(f'Teacher loaded completely from {self.checkpoint}.', 'current')
        if self.fast:
            self._fold(model)
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
        if not self._loaded:
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
        return view_class(self.model)(self.model, own, self._inference, student)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        # no_grad, not inference_mode: losses save the outputs for the student's backward pass
        device = next(self.model.parameters()).device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield

    @staticmethod
    def _fold(model: nn.Module) -> None:
        """Fold batch norms into the convolutions before them, where that changes nothing."""
        for name in view_class(model).parts:
            part = getattr(model, name, None)
            if part is None:
                continue
            # mmcv folds by the order in which layers were registered, which need not be the order
            # in which they run: so each part proves itself on a picture, and else stays as it was
            before = _outputs(model)
            setattr(model, name, copy.deepcopy(part))
            try:
                fuse_conv_bn(getattr(model, name))
                after = _outputs(model)
            except (RuntimeError, TypeError, AttributeError):  # layers that do not belong together
                after = []
            if len(after) != len(before) or not all(
                torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
                for a, b in zip(after, before, strict=True)
            ):
                setattr(model, name, part)
                print_log(f"The batch norms of the teacher's {name} cannot be folded.", 'current')


def _outputs(model: nn.Module) -> list[Tensor]:
    """Features and logits for a fixed small noise picture."""
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 4 - 2
    device = next(model.parameters()).device
    return view_class(model)(model, Batch(noise.to(device), []), torch.no_grad).outputs()


def teacher_from(config: Mapping[str, Any] | Teacher) -> Teacher:
    """A teacher from its part of the config.

    Raises:
        SetupError: an unknown key.
    """
    if isinstance(config, Teacher):
        return config
    known = ('config', 'checkpoint', 'dtype', 'fast', 'same_classes', 'untrained')
    unknown = [key for key in config if key not in known]
    if unknown or 'config' not in config:
        raise SetupError(
            f'The teacher is configured by `config` and `checkpoint`, and may have '
            f'{", ".join(known[2:])}; found {sorted(config)}.'
        )
    return Teacher(**config)
