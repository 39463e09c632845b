"""The labelled and the unlabelled images of a batch, each as a batch of its own.

What is divided by counts over all ranks waits for all of them. A rank that has no image of a kind,
while others have, therefore runs a stand-in: an image of the other kind, which adds nothing to the
counts and whose losses are multiplied by 0.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from mmengine import dist
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from ..views import Batch

MARK = 'labelled'  # in the metainfo of a data sample
IGNORED = 255


class Part(NamedTuple):
    """The images of one kind.

    Attributes:
        batch: of them, padded as they would be alone.
        counts: whether they count; a stand-in does not.
    """

    batch: Batch
    counts: bool = True

    @property
    def share(self) -> int:
        """What losses are multiplied by, 1 or 0."""
        return int(self.counts)

    def counted(self) -> AbstractContextManager[None]:
        """While inside, sums over ranks get nothing of a stand-in."""
        return nullcontext() if self.counts else adding_nothing()


def is_labelled(sample: BaseDataElement) -> bool:
    """Whether an image's annotations are meant; they are where nothing is said."""
    return bool(sample.metainfo.get(MARK, True))


def parted(batch: Batch) -> tuple[Part | None, Part | None]:
    """The labelled and the unlabelled images; None of a kind that no rank has.

    Args:
        batch: of this rank.
    """
    labelled = [is_labelled(sample) for sample in batch.samples] or [True] * len(batch.images)
    kinds = [[i for i, each in enumerate(labelled) if each is kind] for kind in (True, False)]
    counts = torch.tensor([len(chosen) for chosen in kinds], device=batch.images.device)
    if dist.is_distributed():
        dist.all_reduce(counts)
    parts: list[Part | None] = []
    for chosen, anywhere in zip(kinds, counts.tolist(), strict=True):
        if chosen:
            parts.append(Part(only(batch, chosen)))
        else:
            parts.append(Part(_stand_in(batch), counts=False) if anywhere else None)
    return parts[0], parts[1]


def only(batch: Batch, chosen: Sequence[int]) -> Batch:
    """Some images of a batch, padded no further than they would be alone.

    Args:
        batch: of all images.
        chosen: indices of some.
    """
    if len(chosen) == len(batch.images):
        return batch
    samples = [batch.samples[i] for i in chosen]
    images = batch.images[list(chosen)]
    every, own = _padded_size(batch.samples), _padded_size(samples)
    # maps of classes have the size of the whole batch, and images with them no other padding
    if own and every == tuple(images.shape[-2:]) and not any('gt_sem_seg' in s for s in samples):
        images = images[..., : own[0], : own[1]].contiguous()
        for sample in samples:
            if 'batch_input_shape' in sample.metainfo:
                sample.set_metainfo(dict(batch_input_shape=own))
    return Batch(images, samples)


def _padded_size(samples: Sequence[BaseDataElement]) -> tuple[int, int] | None:
    """What images are padded to together, (height, width) in pixels; None where unknown."""
    sizes = [sample.metainfo.get('pad_shape') for sample in samples]
    if any(size is None for size in sizes):
        return None
    return max(int(size[0]) for size in sizes), max(int(size[1]) for size in sizes)


def _stand_in(batch: Batch) -> Batch:
    """The first image, with annotations of nothing where it has none."""
    alone = only(batch, [0])
    sample = copy.copy(alone.samples[0])
    if 'bboxes' not in sample.get('gt_instances', ()):
        nothing = alone.images.new_zeros((0, 4)), alone.images.new_zeros(0, dtype=torch.long)
        sample.set_field(InstanceData(bboxes=nothing[0], labels=nothing[1]), 'gt_instances')
    if 'gt_sem_seg' not in sample:
        size = alone.images.shape[-2:]
        ignored = alone.images.new_full((1, *size), IGNORED, dtype=torch.long)
        sample.set_field(PixelData(data=ignored), 'gt_sem_seg')
    return Batch(alone.images, [sample])


@contextmanager
def adding_nothing() -> Iterator[None]:
    """While inside, this rank adds nothing to what is summed over ranks, and gets the sum."""
    original = torch.distributed.all_reduce

    def zeroed(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return original(tensor.zero_(), *args, **kwargs)

    torch.distributed.all_reduce = zeroed
    try:
        yield
    finally:
        torch.distributed.all_reduce = original
