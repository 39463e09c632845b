"""A teacher from elsewhere: any module that maps images to maps, such as a foundation model.

Shapes: N images of H x W pixels as the student sees them, H' x W' as the module does; maps of h x w
positions, C channels; T tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.utils import get_object_from_string
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host, isolated_rng
from ..hosts.checkpoints import load_completely, model_state, read_checkpoint
from ..losses.maps import size_of
from ..registry import MODELS, TEACHERS
from ..views import Batch, FeatureView, HostInfo, View, host_info, readable
from .base import Teacher
from .frozen import DTYPES
from .of_model import inference
from .renormalize import Renormalize

OWN = 'own'  # weights that the module is built with
PROBE = 128  # pixels of the picture that channels and strides are read off
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class ForeignView(FeatureView):
    """What losses may look at in a module from elsewhere: its maps, on the student's levels."""

    of_own_loss = (*FeatureView.of_own_loss, 'features')  # of the size of one student's levels

    teacher: FeatureTeacher

    @readable()
    def maps(self) -> list[Tensor]:
        """What the module returns, maps (N, C, h, w), in float32."""
        with self._context():
            return [each.float() for each in self.teacher.run(self.batch.images)]

    @readable(agree=('family', 'strides'), ahead='maps')
    def features(self) -> tuple[Tensor, ...]:
        """L maps (N, C, h, w) of the sizes of the student's."""
        if self._student is None:
            return tuple(self.maps)
        levels = zip(self.teacher.chosen, self._student.level_sizes, strict=True)
        return tuple(interpolated(self.maps[index], size) for index, size in levels)


@TEACHERS.register_module()
class FeatureTeacher(Teacher):
    """A module of any package that maps images to maps: no classes, no boxes, features alone.

    Each of the student's levels is compared with the map whose stride is nearest, interpolated to
    the level's size. Losses that only want as many levels of any host can use it: PKD, CWD and MGD
    on levels, hints with ``align='interpolate'``. It is frozen as
    :class:`~kd_dense.FrozenTeacher` is.

    Args:
        model: how the module is built: ``type``, a function or class by its dotted name
            (``'timm.create_model'``) or a registered one, and its arguments.
        weights: path or URL of its weights, all of them; the config of an initializer, such as
            :class:`~kd_dense.PretrainedPackage`; or ``'own'``, those that it is built with.
        call: what of the module is called with the images: a method or a part by its dotted name,
            such as ``'forward_features'`` or ``'backbone'``; the module itself by default.
        output: what of that is taken: a key or attribute, where it returns several by name.
        maps: which of the maps, as indices; all by default.
        patch: pixels of a position of tokens, (N, T, C), which are then laid out as a map; tokens
            in front of these (class, registers) are dropped.
        mean, std: that it wants images normalised with, of values from 0 to 255, in its order of
            channels; ImageNet's by default.
        bgr_to_rgb: whether its channels are red, green, blue.
        multiple: of which H' and W' have to be; the patch by default. Images are resized to the
            nearest.
        scale: of the images besides.
        size: (H', W') of all images, in place of these two.
        dtype: precision it runs in: ``'float32'``, ``'bfloat16'`` or ``'float16'``.
        untrained: allow it without weights (to measure speed or memory, say).
        trust: read a file that holds more than weights, which may run its code.

    Raises:
        SetupError: nothing of such a name, no weights, or a number that is none.
    """

    same_classes = False

    def __init__(
        self,
        model: Mapping[str, Any],
        weights: str | Mapping[str, Any] | None = None,
        call: str = '',
        output: str = '',
        maps: Sequence[int] | None = None,
        patch: int | None = None,
        mean: Sequence[float] = IMAGENET[0],
        std: Sequence[float] = IMAGENET[1],
        bgr_to_rgb: bool = True,
        multiple: int | None = None,
        scale: float = 1.0,
        size: tuple[int, int] | None = None,
        dtype: str = 'float32',
        untrained: bool = False,
        trust: bool = False,
    ) -> None:
        if weights is None and not untrained:
            raise SetupError(
                'The feature teacher has no weights. Name a file (`teacher.weights=PATH_OR_URL`), '
                "or 'own' where its `model` is built with them; an untrained teacher teaches "
                'noise. To measure speed with one, set `teacher.untrained=True`.'
            )
        if dtype not in DTYPES:
            raise SetupError(f'teacher.dtype is {dtype!r}; choose one of {", ".join(DTYPES)}.')
        for name, value in dict(patch=patch, multiple=multiple).items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise SetupError(f'teacher.{name} is {value!r}; it is a whole number above 0.')
        if not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise SetupError(f'teacher.scale is {scale!r}; it is a number above 0.')
        if not isinstance(model, Mapping) or 'type' not in model:
            raise SetupError(
                f'teacher.model is {model!r}; it is a dict with `type`, a function or class by its '
                "dotted name such as 'timm.create_model', and its arguments."
            )
        self.config = dict(model)
        self.weights = weights
        self.untrained = weights is None
        self.source = weights if isinstance(weights, str) and weights != OWN else self.built_by
        self.call, self.output, self.indices = call, output, maps
        self.patch = patch
        self.multiple = multiple or patch or 1
        self.scale, self.size = scale, size
        self.preprocessor = ImgDataPreprocessor(list(mean), list(std), bgr_to_rgb=bgr_to_rgb)
        self.dtype = DTYPES[dtype]
        self.trust = trust
        self.strides: tuple[float, ...] | None = None  # of the student's levels, once it is known
        self._renormalize: Renormalize | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureTeacher:
        return self  # frozen, so copies of the student (EMA) share it

    @property
    def built_by(self) -> str:
        """What the module is built by, and which one, for messages."""
        name = self.config.get('model_name') or self.config.get('name') or ''
        return f'{self.config["type"]} {name}'.strip()

    @cached_property
    def network(self) -> nn.Module:
        """The module; its weights are there after :meth:`load`, or from the start."""
        arguments = {key: value for key, value in self.config.items() if key != 'type'}
        kind = self.config['type']
        build = kind if callable(kind) else MODELS.get(kind) or get_object_from_string(kind)
        if not callable(build):
            raise SetupError(
                f'teacher.model: there is no function or class {kind!r}. Name one that can be '
                "imported, such as 'timm.create_model', or a registered model."
            )
        with isolated_rng(seed=0):
            try:
                network = build(**arguments)
            except (TypeError, ValueError, RuntimeError, AssertionError) as error:
                raise SetupError(
                    f'teacher.model: {self.built_by} cannot be built: {error}. Look at its '
                    'arguments.'
                ) from error
        if not isinstance(network, nn.Module):
            raise SetupError(
                f'teacher.model: {self.built_by} is a {type(network).__name__} and no torch module.'
            )
        return network.eval().requires_grad_(False)

    def run(self, images: Tensor) -> list[Tensor]:
        """The module's maps (N, C, h, w) of images.

        Args:
            images: normalised for it, (N, 3, H, W); they are resized.

        Raises:
            SetupError: it cannot be run on images of that size, or returns no maps.
        """
        height, width = self._fitting(size_of(images))
        dtype = next(self.network.parameters(), images).dtype  # single precision until it is loaded
        images = interpolated(images.float(), (height, width)).to(dtype)
        try:
            called = attrgetter(self.call)(self.network) if self.call else self.network
            found = called(images)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise SetupError(
                f'The {self.name} ({self.built_by}) cannot be run on images of {height} x {width} '
                f'pixels: {error}. Look at `call`, `multiple` and `size` of the teacher; a vision '
                'transformer of timm takes other sizes with `dynamic_img_size=True`.'
            ) from error
        maps = [self._as_map(each, (height, width)) for each in self._outputs(found)]
        try:
            return maps if self.indices is None else [maps[index] for index in self.indices]
        except IndexError:
            raise SetupError(
                f'teacher.maps is {tuple(self.indices or ())}; {self.built_by} has {len(maps)} '
                f'maps, 0 to {len(maps) - 1}.'
            ) from None

    def _fitting(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H', W') of images of (H, W) pixels."""
        if self.size is not None:
            return self.size[0], self.size[1]
        height, width = (
            max(1, round(each * self.scale / self.multiple)) * self.multiple for each in size
        )
        return height, width

    def _outputs(self, found: Any) -> list[Tensor]:
        """The tensors among what the module returns that are asked for."""
        if self.output:
            named = isinstance(found, Mapping) and self.output in found
            found = found[self.output] if named else getattr(found, self.output, None)
        if isinstance(found, Mapping):
            found = list(found.values())
        listed = [found] if isinstance(found, Tensor) else found
        if (
            not isinstance(listed, list | tuple)
            or not listed
            or not all(isinstance(each, Tensor) for each in listed)
        ):
            raise SetupError(
                f'{self.built_by} returns {type(found).__name__} and no maps'
                + (f' as {self.output!r}' if self.output else '')
                + ". Name what returns them (`call='backbone'`, say) and which (`output`)."
            )
        return list(listed)

    def _as_map(self, found: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (N, T, C) laid out as a map, of images of (H', W') pixels; a map as it is."""
        if found.dim() == 4:
            return found
        if found.dim() != 3 or self.patch is None:
            raise SetupError(
                f'{self.built_by} returns a tensor of shape {tuple(found.shape)} and no map '
                '(N, C, h, w). Of tokens (N, T, C) say how many pixels each is of: '
                '`teacher.patch=16`.'
            )
        h, w = size[0] // self.patch, size[1] // self.patch
        if found.shape[1] < h * w:
            raise SetupError(
                f'{self.built_by} returns {found.shape[1]} tokens of an image of {size[0]} x '
                f'{size[1]} pixels, fewer than the {h} x {w} of patches of {self.patch}. Look at '
                '`teacher.patch`.'
            )
        tokens = found[:, found.shape[1] - h * w :]  # class and registers come first
        return tokens.transpose(1, 2).unflatten(2, (h, w))

    @cached_property
    def _probed(self) -> list[tuple[int, float]]:
        """Channels and stride of each map, found by looking at a small black picture."""
        side = round(PROBE / self.multiple) * self.multiple or self.multiple
        parameter = next(self.network.parameters(), torch.zeros(()))
        picture = torch.zeros(1, 3, side, side, device=parameter.device)
        with inference(parameter.device)():
            return [(m.shape[1], side / m.shape[-1]) for m in self.run(picture)]

    @property
    def chosen(self) -> list[int]:
        """Which map is compared with each of the student's levels: of the nearest stride."""
        own = [stride for _, stride in self._probed]
        return [
            min(range(len(own)), key=lambda i: abs(math.log2(own[i] / stride)))
            for stride in self.strides or own
        ]

    def connect(self, student: Host) -> None:
        """Learn which levels the student has."""
        self.strides = host_info(student).strides

    @property
    def info(self) -> HostInfo:
        """What has to agree with a student: it has levels where the student has."""
        return HostInfo(
            family=FeatureView.family,
            strides=self.strides or tuple(stride for _, stride in self._probed),
            num_classes=0,
            activation='unknown',
            boxes='unknown',
            head=type(self.network).__name__,
        )

    @property
    def loaded(self) -> bool:
        """Whether the weights are there."""
        return self._renormalize is not None

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The file of weights; None where there is none.

        Raises:
            FileNotFoundError: it is not there.
            SetupError: it is none.
        """
        if not isinstance(self.weights, str) or self.weights == OWN:
            return None
        return read_checkpoint(self.weights, 'teacher', '', self.trust)

    def load(self, student: Host) -> None:
        """Load and verify the weights, once; later calls return at once.

        Raises:
            FileNotFoundError: the file is not there.
            SetupError: it does not fit, or images cannot be shown the teacher's way.
        """
        if self.loaded:
            return
        if (checkpoint := self.read_checkpoint()) is not None:
            load_completely(self.network, model_state(checkpoint), self.source, 'teacher')
            print_log(f'Teacher loaded completely from {self.source}.', 'current')
        elif isinstance(self.weights, Mapping):
            WEIGHT_INITIALIZERS.build(dict(self.weights))(self.network)
        elif self.untrained:
            print_log('The teacher is untrained: it teaches noise.', 'current', logging.WARNING)
        self.network.to(self.dtype).eval().requires_grad_(False)
        self._renormalize = Renormalize(student.data_preprocessor, self.preprocessor)

    def view(self, batch: Batch, student: View | None = None) -> View:
        """What losses may look at for one batch; the module runs when it is read.

        Args:
            batch: the student's batch, images (N, 3, H, W) normalised for the student.
            student: the student's view, whose levels the maps are brought to.
        """
        if self._renormalize is None:
            raise RuntimeError('The teacher was not loaded: call Teacher.load(student) first.')
        device = batch.images.device
        self._renormalize.to(device)
        self.network.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            own = Batch(self._renormalize(batch), batch.samples)
        view = ForeignView(self.network, own, inference(device), student)
        view.teacher = self
        return view

    def offers(self, read: str) -> bool:
        """Features, and nothing else."""
        return read == 'features'

    def channels(self, stage: int | str, read: str = 'features') -> int:
        """Channels of the map that is compared with a level of the student.

        Args:
            stage: index of the level.
            read: ``'features'``.
        """
        return self._probed[self.chosen[int(stage)]][0]


def interpolated(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, h, w) at another size, interpolated linearly, smoothed where they get smaller."""
    if size_of(maps) == size:
        return maps
    return F.interpolate(maps, size, mode='bilinear', align_corners=False, antialias=True)
