"""Fixtures that many tests share."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from kd_dense.datasets import make_digits
from tests.helpers import quick

__all__ = ['quick']

# as in the processes that tests start: sums are then equal to the bit
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Leave out of each collection of garbage what was imported.

    mmengine collects garbage whenever it reads a data set, which took a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def digits_root(tmp_path_factory) -> Path:
    """The embedded dataset with 12 training and 6 validation scenes."""
    return make_digits(tmp_path_factory.mktemp('data') / 'digits', train=12, val=6, progress=False)


@pytest.fixture
def own_scope() -> Iterator[None]:
    """Mmdet's scope, and afterwards the one before: a runner leaves its own behind."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield
