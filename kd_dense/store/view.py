"""The views of a stored teacher: what the store holds of a batch, brought to the batch's size.

Shapes as in :mod:`kd_dense.views.view`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any, cast

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..errors import SetupError
from ..losses.maps import size_of
from ..views import Batch, View, readable
from .dataset import FIELD
from .kept import AT, AT_POSITIONS, REST, STORABLE, Kept

STRIDES = [2**power for power in range(10)]
ONE_MAP = ('seg_logits', 'head_features')  # the others are several


class StoredView(View):
    """What a view has in common with others of stores: no model runs.

    Args:
        batch: the student's, whose samples carry what the store holds.
        student: the student's view.
        kept: what the store keeps.
        path: of the store, for messages.
    """

    def __init__(self, batch: Batch, student: View, kept: Kept, path: str) -> None:
        # no method of its own: a view that holds itself holds the graph until garbage is collected
        super().__init__(student.model, batch, partial(_refuse, kept, path), student)
        self.kept = kept
        self.path = path
        self.answers: list[BaseDataElement] = [sample.get(FIELD) for sample in batch.samples]

    def precompute(self, names: Iterable[str]) -> None:
        """Nothing has to be computed."""

    @cached_property
    def level_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of each level's map; without features those of the student, which agree."""
        if 'features' in self.kept.reads:
            return [size_of(each) for each in self.features]
        return cast(View, self._student).level_sizes

    def known(self, read: str) -> Tensor | None:
        """Which predictions of a dense head are known; bool, (N, P); None for all."""
        return None if self.kept.everywhere(read) else self._known

    def stored(self, read: str) -> Any:
        """A property as the store holds it, in float32.

        Args:
            read: its name.

        Raises:
            SetupError: the store does not hold it.
        """
        if read not in self.kept.reads:
            _refuse(self.kept, self.path)
        maps = self._whole(read) if self.kept.whole(read) else self._scattered(read)
        if read in ONE_MAP:
            return maps[0]
        return maps if read in AT_POSITIONS else tuple(maps)

    # -- what is kept whole ------------------------------------------------------------------------

    def _whole(self, read: str) -> list[Tensor]:
        prefix = f'{read}.'
        levels = sum(key.startswith(prefix) for key in self.answers[0].keys())  # noqa: SIM118
        return [self._level(f'{prefix}{level}') for level in range(levels)]

    def _level(self, key: str) -> Tensor:
        """The maps of a level of all pictures, (N, C, H, W), 0 where a picture's own map ends."""
        maps = [answer.get(key) for answer in self.answers]
        canvas = size_of(self.batch.images)
        own = [answer.canvas for answer in self.answers]
        if all(each == canvas for each in own):
            return torch.stack(maps).float()
        sizes = [size_of(each) for each in maps]
        height, width = (
            self._side(canvas[side], [(o[side], s[side]) for o, s in zip(own, sizes, strict=True)])
            for side in (0, 1)
        )
        found = torch.zeros(
            (len(maps), maps[0].shape[0], height, width), device=self.batch.images.device
        )
        for image, each in enumerate(maps):
            found[image, :, : each.shape[-2], : each.shape[-1]] = each
        return found

    def _side(self, canvas: int, own: Sequence[tuple[int, int]]) -> int:
        """Positions along one side of the batch, at the stride of the pictures' own maps.

        Args:
            canvas: pixels of the batch.
            own: pixels and positions of each picture.
        """
        for stride in STRIDES:
            if all(-(-pixels // stride) == positions for pixels, positions in own):
                return -(-canvas // stride)
        raise SetupError(
            f'The pictures of a batch have other sizes, and the maps in {self.path} have no stride '
            'that is a power of two, by which they would fit together. Bring the pictures to one '
            'size in the pipeline, and write the store anew.'
        )

    # -- what is kept at some positions ------------------------------------------------------------

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Of all that is kept: which picture, and which of its positions on all levels, (M,)."""
        device = self.batch.images.device
        at = [answer.get(AT).long() for answer in self.answers]
        image = torch.cat([torch.full_like(each[:, 0], i) for i, each in enumerate(at)])
        widths = torch.tensor([w for _, w in self.level_sizes], device=device)
        counts = [h * w for h, w in self.level_sizes]
        starts = torch.tensor([0, *counts], device=device).cumsum(0)
        level, row, column = torch.cat(at).unbind(dim=1)
        return image, starts[level] + row * widths[level] + column

    def _nothing(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        positions = sum(h * w for h, w in self.level_sizes)
        device = self.batch.images.device
        return torch.zeros(len(self.answers), positions, *shape, dtype=dtype, device=device)

    @cached_property
    def _known(self) -> Tensor:
        found = self._nothing(dtype=torch.bool)
        found[self._places] = True
        return found.repeat_interleave(self.num_anchors, dim=1)

    def _scattered(self, read: str) -> list[Tensor]:
        """Maps with what is kept at its positions: (N, C, H, W), elsewhere the rest, or 0."""
        values = torch.cat([answer.get(read) for answer in self.answers]).float()
        found = self._nothing(values.shape[-1])
        if self.kept.everywhere(read):
            rest = torch.stack([answer.get(REST) for answer in self.answers]).float()
            found = found + rest[:, None]
        found[self._places] = values
        levels = found.split([h * w for h, w in self.level_sizes], dim=1)
        sizes = zip(levels, self.level_sizes, strict=True)
        return [each.unflatten(1, size).permute(0, 3, 1, 2) for each, size in sizes]


def _refuse(kept: Kept, path: str) -> AbstractContextManager[object]:
    raise SetupError(
        f'A loss reads what is not in the store {path}; it holds {", ".join(kept.reads)}. Write it '
        'with `--keep` of what the loss reads, or let the teacher run.'
    )


def _from_store(read: str, agree: Sequence[str]) -> Any:
    def answer(self: StoredView) -> Any:
        return self.stored(read)

    answer.__name__ = read
    return readable(agree=agree, ahead=None)(answer)


_KINDS: dict[type[View], Callable[..., StoredView]] = {}


def stored_view(kind: type[View]) -> Callable[..., StoredView]:
    """The kind of view that reads in a store what another kind computes by a model.

    Args:
        kind: of the student's view.
    """
    if kind in _KINDS:
        return _KINDS[kind]
    declared = {name: getattr(kind, name) for name in STORABLE if hasattr(kind, name)}
    answered = {name: _from_store(name, each.agree) for name, each in declared.items()}
    _KINDS[kind] = type(f'Stored{kind.__name__}', (StoredView, kind), answered)
    return _KINDS[kind]
