"""What the views of all host families share.

Shapes: N images, L levels, H x W positions of a level, A predictions per position, P = sum over the
levels of H * W * A predictions per image, in mmdet's order (level, row, column, anchor).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..class_map import ClassMap
from ..errors import SetupError
from ..hosts import Host
from .batch import Batch
from .info import HostInfo
from .readable import ITSELF, Readable, readable
from .watch import replaced, watch_calls

Note = tuple[Any, str, Callable[..., None]]
BACKBONE = 'backbone.'  # how stages of the backbone are called, with their index behind it
MEMORY = 'memory.'  # and those of what a transformer's encoder returns
INDEXED = {BACKBONE: 'backbone_features', MEMORY: 'memory'}  # where they are found
ON_FEATURES = 'hints (FeatureImitation) and PKD (PearsonDistillation)'


class NotAnnotated(SetupError):
    """A loss asks for what annotations tell, in a training that reads none.

    Args:
        what: it asks for.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f'This training reads no annotations (`own_loss=False`), and so {what} are not known.'
        )
        self.what = what


class View:
    """What losses may look at in one model, for one batch.

    Each property is computed when first read, by the model's own methods; for the student
    everything is noted while its own loss runs (:meth:`recording`) and nothing is computed twice.

    Args:
        model: the host, with ``extract_feat``.
        batch: the batch, with images normalised for this model.
        context: entered around each computation (the teacher's no-grad and dtype).
        student: for a teacher's view the student's, whose proposals it may have to score.

    Attributes:
        parts: names of the model's parts that run one after the other.
        of_own_loss: names of what was noted of the model's own loss and is nothing to others.
        family: what this kind of host is called.
        served_by: which losses ask the least of a pair with such a student, in words.
        label: whose view it is, for the profiler.
        annotated: whether annotations of the batch may be read.
        own_weight: what the training multiplies the model's own losses by.
        class_map: which of the model's classes is which of the training set's, where they differ.
    """

    annotated: bool = True
    own_weight: float = 1.0
    class_map: ClassMap | None = None

    parts: ClassVar[tuple[str, ...]] = ('backbone', 'neck')
    of_own_loss: ClassVar[tuple[str, ...]] = ('own_losses',)
    family: ClassVar[str]
    served_by: ClassVar[str] = f'losses on features ask the least of a pair: {ON_FEATURES}'

    def __init__(
        self,
        model: Host,
        batch: Batch,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
        student: View | None = None,
    ) -> None:
        self.model = model
        self.batch = batch
        self._context = context
        self._student = student
        self.label = 'student' if student is None else 'teacher'

    @staticmethod
    def fits(model: Host) -> bool:
        """Whether this view fits a model."""
        raise NotImplementedError

    @classmethod
    def describe(cls, model: Host) -> HostInfo:
        """Read off a model what two models may have to agree in; ask for it by ``host_info``."""
        raise NotImplementedError

    @staticmethod
    def head_of(model: Host) -> Host:
        """The head that knows the classes."""
        raise NotImplementedError

    @property
    def head(self) -> Host:
        """The head that knows the classes."""
        return self.head_of(self.model)

    @property
    def num_anchors(self) -> int:
        """Predictions per position A."""
        return 1

    @property
    def strides(self) -> tuple[float, ...]:
        """Pixels per position of each level, along the width of the padded image."""
        width = self.batch.images.shape[-1]
        return tuple(width / w for _, w in self.level_sizes)

    @readable(agree=('family', 'strides'))
    def features(self) -> tuple[Tensor, ...]:
        """What the head reads: L maps (N, C, H, W)."""
        with self._context(), self._one_backbone():
            return as_levels(self.model.extract_feat(self.batch.images))

    @readable()
    def backbone_features(self) -> tuple[Tensor, ...]:
        """What the backbone returns: maps (N, C, h, w), before any neck."""
        with self._context():
            return as_levels(self.model.backbone(self.batch.images))

    def _one_backbone(self) -> AbstractContextManager[object]:
        """While inside, the backbone does not run a second time for this batch."""
        backbone = getattr(self.model, 'backbone', None)
        if backbone is None:
            return nullcontext()
        if 'backbone_features' in vars(self):
            known = self.backbone_features
            return replaced(backbone, 'forward', lambda *_: known)
        return watch_calls(backbone, 'forward', self._note_backbone)

    def _note_backbone(self, _: tuple, features: Any) -> None:
        self.backbone_features = as_levels(features)

    def outputs(self) -> list[Tensor]:
        """Everything the model computes for its predictions: features and logits."""
        raise NotImplementedError

    @cached_property
    def level_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of each level's map."""
        return [(f.shape[-2], f.shape[-1]) for f in self.features]

    @cached_property
    def level_index(self) -> Tensor:
        """Level of each prediction, (P,)."""
        counts = [h * w * self.num_anchors for h, w in self.level_sizes]
        device = self.batch.images.device
        return torch.repeat_interleave(torch.tensor(counts, device=device))

    def positions(self, mask: Tensor) -> list[Tensor]:
        """Bring a mask over predictions to the positions of each level's map.

        Args:
            mask: bool, (N, P).

        Returns:
            L masks (N, H, W), true where any prediction of the position is chosen.
        """
        merged = mask.reshape(len(mask), -1, self.num_anchors).any(dim=-1)
        parts = merged.split([h * w for h, w in self.level_sizes], dim=1)
        return [p.reshape(-1, *size) for p, size in zip(parts, self.level_sizes, strict=True)]

    def stage(self, name: int | str) -> Tensor:
        """The map of one stage, (N, C, h, w).

        Args:
            name: index into :attr:`features`; ``'backbone.2'``, with an index into
                :attr:`backbone_features`, or ``'memory.1'``, into what a transformer's encoder
                returns; segmentors have more.

        Raises:
            SetupError: there is no such stage.
        """
        before = next((each for each in INDEXED if str(name).startswith(each)), '')
        maps = getattr(self, INDEXED[before]) if before else self.features
        number = str(name).removeprefix(before)
        index = int(number) if before and number.isdecimal() else name
        if isinstance(index, str) or not -len(maps) <= index < len(maps):
            raise SetupError(
                f'This {type(self.model).__name__} has no stage {name!r}; it has '
                f'{len(maps)}, {before}0 to {before}{len(maps) - 1}.'
            )
        return maps[index]

    def valid_at(self, size: tuple[int, int]) -> Tensor:
        """Which positions of a map count; bool, (N, h, w).

        Args:
            size: (h, w) of the map of the whole padded image.
        """
        known = {}
        if 'features' in vars(self):  # else the map is none of them: not to be computed for that
            known = dict(zip(self.level_sizes, self.strides, strict=True))
        stride = known.get((size[0], size[1]), self.batch.images.shape[-1] / size[-1])
        return self.batch.inside((size[0], size[1]), stride)

    def level_masks(self) -> list[Tensor]:
        """Which positions of each level's map count: L masks (N, H, W), without padding."""
        levels = zip(self.level_sizes, self.strides, strict=True)
        return [self.batch.inside(size, stride) for size, stride in levels]

    @cached_property
    def valid(self) -> Tensor:
        """Which predictions lie inside their image, not in its padding; bool, (N, P)."""
        masks = [mask.flatten(1) for mask in self.level_masks()]
        return torch.cat([m.repeat_interleave(self.num_anchors, dim=1) for m in masks], dim=1)

    def known(self, read: str) -> Tensor | None:
        """Which predictions of a dense head are known; bool, (N, P); None for all.

        Args:
            read: name of a property.
        """
        return None

    @property
    def eligible(self) -> Tensor:
        """Which predictions a region may hold; bool, (N, P)."""
        return self.valid

    @cached_property
    def own_losses(self) -> dict[str, Tensor | list[Tensor]]:
        """What the model's own loss returned."""
        if not self.annotated:
            raise NotAnnotated("the model's own losses")
        raise RuntimeError('The own loss of this model was not noted: a teacher computes none.')

    def own_loss(self, name: str) -> Tensor:
        """One of the model's own losses as it enters their sum, a scalar; 0 if there is none."""
        nothing = self.features[0].new_zeros(())
        value = self.own_losses.get(name, nothing)
        if isinstance(value, Tensor):
            return value.mean()
        return sum((v.mean() for v in value), start=nothing)

    def looked_at_by(
        self,
        student: View,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> View:
        """What the same pass shows to another model that learns: all of it detached.

        What was not computed in the pass is, when read: without gradients, and with the model in
        evaluation, so that no batch statistics and no random numbers change.

        Args:
            student: the view of who learns, whose proposals a two-stage model scores.
            context: entered around such a computation, as the autocast of the training.
        """
        seen = self.for_student(student)
        vars(seen).update({name: detached(value) for name, value in vars(seen).items()})
        seen._context = partial(at_rest, self.model, context)
        return seen

    def for_student(self, student: View) -> View:
        """What the same pass of a teacher shows to another student.

        Args:
            student: the view of who learns.
        """
        seen = copy.copy(self)
        for name in self.of_own_loss:
            vars(seen).pop(name, None)
        seen._student = student
        return seen

    def precompute(self, names: Iterable[str]) -> None:
        """Compute of some properties what needs no student to have run.

        Args:
            names: of properties that losses may read.
        """
        # features first: what others of them take is then not counted as theirs
        for name in sorted(names, key=lambda name: (name != 'features', name)):
            declared = getattr(type(self), name)
            ahead = declared.ahead if isinstance(declared, Readable) else ITSELF
            if ahead is not None:
                getattr(self, name if ahead == ITSELF else ahead)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note outputs, assignment and losses while the model's own loss runs inside."""
        with ExitStack() as stack:
            for owner, method, note in self._notes():
                stack.enter_context(watch_calls(owner, method, note))
            yield

    def _notes(self) -> list[Note]:
        """Which methods to watch, as arguments of :func:`~kd_dense.views.watch.watch_calls`."""

        def note_losses(inputs: tuple, losses: dict[str, Any]) -> None:
            self.own_losses = dict(losses)

        notes: list[Note] = [(self.model, 'loss', note_losses)]
        if hasattr(self.model, 'backbone'):
            notes.append((self.model.backbone, 'forward', self._note_backbone))
        return notes


def detached(value: Any) -> Any:
    """The same without its graph, through lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: detached(each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, '_make'):  # a named one
        return type(value)._make(detached(each) for each in value)
    if isinstance(value, list | tuple):
        return type(value)(detached(each) for each in value)
    return value


@contextmanager
def at_rest(
    model: Host, context: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Iterator[None]:
    """While inside, a model in training computes as in evaluation, without gradients.

    Args:
        model: a host.
        context: entered besides, as the autocast of the training.
    """
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        with torch.no_grad(), context():
            yield
    finally:
        for module in training:
            module.training = True


def in_half_precision(model: nn.Module) -> bool:
    """Whether the weights of a model are in half precision; under autocast they are not."""
    return next(model.parameters()).dtype.itemsize < 4


def as_levels(features: Tensor | Iterable[Tensor]) -> tuple[Tensor, ...]:
    """What ``extract_feat`` returned as L maps: some backbones return one map alone."""
    return (features,) if isinstance(features, Tensor) else tuple(features)


def probe(
    model: Host, view: type[View], size: int = 128, reads: Iterable[str] = ('features',)
) -> View:
    """A view of one small black picture, with what is asked for read; the model is left as it was.

    No gradients, no batch statistics, the same modes afterwards.

    Args:
        model: a host.
        view: its view.
        size: of the picture in pixels.
        reads: the properties to read.
    """
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype)
    seen = view(model, Batch(image, []), partial(at_rest, model))
    seen.precompute(reads)
    return seen
