"""What a store keeps of a teacher's view of one picture: a record, as tensors by name.

Shapes: one picture, C channels, h x w positions of a level, A predictions per position, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SetupError
from ..views import View
from ..views.view import as_levels

# what is a map or several, and so can be kept
STORABLE = (
    *('features', 'backbone_features', 'head_features'),
    *('cls_logits', 'box_logits', 'seg_logits', 'aux_logits'),
)
AT_POSITIONS = ('cls_logits', 'box_logits')  # of these, what can be kept at some positions alone
DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16, 'float32': torch.float32}
# tensors of a record besides the maps
CANVAS, MARK, AT, REST = 'canvas', 'mark', 'at', 'rest'
SUREST = 30.0  # logits: a mean score nearer to 0 or 1 is kept as this


@dataclass(frozen=True)
class Kept:
    """What is kept of each view.

    Attributes:
        reads: names of properties of views, of :data:`STORABLE`.
        regions: the outputs of a dense head are kept in these regions of the student's alone.
        best: and at so many positions where the teacher is surest of a class; of all others the
            mean score of each class is kept, in its place.
        dtype: what numbers are kept as.
    """

    reads: tuple[str, ...]
    regions: tuple[str, ...] = ()
    best: int = 0
    dtype: str = 'float16'

    @property
    def at_positions(self) -> bool:
        """Whether the outputs of a dense head are kept at some positions alone."""
        return bool(self.regions or self.best)

    def whole(self, read: str) -> bool:
        """Whether a property is kept at all positions."""
        return not (self.at_positions and read in AT_POSITIONS)

    def everywhere(self, read: str) -> bool:
        """Whether something is known of a property at all positions."""
        return self.whole(read) or (read == 'cls_logits' and self.best > 0)


def record_of(view: View, kept: Kept, chosen: Tensor | None = None) -> dict[str, Tensor]:
    """What is kept of a view.

    Args:
        view: a teacher's, of a batch of one picture.
        kept: what to keep.
        chosen: which predictions of a dense head lie in the regions; bool, (1, P).

    Returns:
        ``'NAME.LEVEL'``, (C, h, w), of what is kept whole; of what is kept at n positions
        ``'at'``, (n, 3) of level, row and column, with ``'NAME'``, (n, C), and ``'rest'``, (C,),
        the class logits elsewhere; and ``'canvas'``, (2,), height and width of the padded picture.

    Raises:
        SetupError: a number is too large for the type that numbers are kept as, or is none.
    """
    record = {CANVAS: torch.tensor(view.batch.images.shape[-2:], dtype=torch.int32)}
    for read in kept.reads:
        if kept.whole(read):
            for level, each in enumerate(as_levels(getattr(view, read))):
                record[f'{read}.{level}'] = each[0]
    if parts := [read for read in kept.reads if not kept.whole(read)]:
        levels = [mask[0] for mask in _positions(view, kept, chosen)]
        record[AT] = torch.cat([_places(level, mask) for level, mask in enumerate(levels)])
        for read in parts:
            maps = getattr(view, read)
            rows = [each[0][:, mask].T for each, mask in zip(maps, levels, strict=True)]
            record[read] = torch.cat(rows)
        if kept.best:
            record[REST] = _rest(view, levels)
    dtype = DTYPES[kept.dtype]
    return {
        name: _cast(each, dtype, name) if each.is_floating_point() else each.cpu()
        for name, each in record.items()
    }


def _positions(view: View, kept: Kept, chosen: Tensor | None) -> list[Tensor]:
    """Which positions are kept, L masks (1, h, w)."""
    mask = torch.zeros_like(view.valid) if chosen is None else chosen
    if kept.best:
        score = _scores(view).masked_fill(~view.valid, -1)
        surest = score.topk(min(kept.best, score.shape[1])).indices
        mask = mask | (torch.zeros_like(mask).scatter_(1, surest, True) & view.valid)
    return view.positions(mask)


def _scores(view: Any) -> Tensor:
    """The best class score of each prediction of a head that scores classes one by one, (1, P)."""
    return view.flat_cls_logits.sigmoid().amax(dim=-1)


def _places(level: int, mask: Tensor) -> Tensor:
    rows = mask.nonzero()
    return torch.cat([torch.full_like(rows[:, :1], level), rows], dim=1).to(torch.int16)


def _rest(view: Any, levels: Sequence[Tensor]) -> Tensor:
    """The logit of the mean score of each class at the positions that are not kept, (A * K,)."""
    masks = zip(view.level_masks(), levels, strict=True)
    maps = zip(view.cls_logits, (inside[0] & ~kept for inside, kept in masks), strict=True)
    scores = torch.cat([each[0][:, mask].T.float() for each, mask in maps]).sigmoid()
    mean = scores.mean(dim=0) if len(scores) else scores.new_zeros(scores.shape[1])
    return torch.logit(mean).clamp(-SUREST, SUREST)


def _cast(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    found = values.detach().to(dtype).cpu()
    if not found.isfinite().all():
        problem = f'{name} of the teacher holds numbers that {str(dtype).split(".")[-1]} cannot'
        if not values.isfinite().all():
            raise SetupError(f'{name} of the teacher holds numbers that are not finite.')
        raise SetupError(f'{problem}. Keep them as --dtype bfloat16 or float32.')
    return found
