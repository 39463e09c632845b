"""Batches of labelled images with unlabelled ones added."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine import dist
from mmengine.registry import DATA_SAMPLERS as MMENGINE_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

from ..errors import SetupError
from ..registry import DATA_SAMPLERS
from .dataset import WithUnlabelled


@DATA_SAMPLERS.register_module()
class BesideLabelled(BatchSampler):
    """The batches of the labelled images, each with unlabelled ones added.

    How long an epoch is, and which labelled images come when, stays as it is without them. The
    unlabelled ones are shuffled, and come again when all have been there; each rank has its own.

    Args:
        sampler: of the labelled images in a :class:`WithUnlabelled`, any kind.
        batch_size: labelled images of a batch.
        ratio: unlabelled images to each labelled one; of a batch it is rounded, one at least.
        drop_last: whether a last batch of fewer labelled images is left out.
        batch_sampler: config of another kind of batches of the labelled images.

    Raises:
        SetupError: a ratio that is none, or another data set.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        ratio: float = 1.0,
        drop_last: bool = False,
        batch_sampler: Mapping[str, Any] | None = None,
    ) -> None:
        check_ratio(ratio)
        dataset = getattr(sampler, 'dataset', None)
        if not isinstance(dataset, WithUnlabelled):
            raise SetupError(
                'kd_dense.BesideLabelled draws from a kd_dense.WithUnlabelled, and the data set is '
                f"a {type(dataset).__name__}. Put `dict(type='kd_dense.WithUnlabelled', "
                "dataset=..., unlabelled='FOLDER')` around it."
            )
        super().__init__(sampler, batch_size, drop_last)
        self.dataset = dataset
        self.ratio = ratio
        self.labelled: Any = BatchSampler(sampler, batch_size, drop_last)
        if batch_sampler is not None:
            arguments = dict(sampler=sampler, batch_size=batch_size)
            self.labelled = MMENGINE_SAMPLERS.build(dict(batch_sampler), default_args=arguments)

    def __len__(self) -> int:
        return len(self.labelled)

    def __iter__(self) -> Iterator[list[int]]:
        beside = self._unlabelled()
        for batch in self.labelled:
            number = max(1, round(self.ratio * len(batch)))
            yield [*batch, *itertools.islice(beside, number)]

    def _unlabelled(self) -> Iterator[int]:
        """Indices of unlabelled images without an end, those of this rank."""
        seed = getattr(self.sampler, 'seed', 0) or 0
        generator = torch.Generator()
        generator.manual_seed(seed * 1_000_003 + getattr(self.sampler, 'epoch', 0))
        first, count = len(self.dataset), len(self.dataset.unlabelled)
        shuffled = (torch.randperm(count, generator=generator).tolist() for _ in itertools.count())
        rank, ranks = dist.get_rank(), dist.get_world_size()
        every = itertools.chain.from_iterable(shuffled)
        return (first + index for index in itertools.islice(every, rank, None, ranks))


def check_ratio(ratio: Any) -> None:
    """Check how many unlabelled images come to a labelled one.

    Raises:
        SetupError: it is no number above 0.
    """
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not number or not 0 < ratio < float('inf'):
        raise SetupError(
            f'The ratio of unlabelled images is {ratio!r}; it is how many come to each labelled '
            'one, a finite number above 0.'
        )
