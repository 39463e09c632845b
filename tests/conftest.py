"""Fixtures that many tests share."""

from pathlib import Path

import pytest
import torch

from kd_dense.datasets import make_digits

# as in the processes that tests start: sums are then equal to the bit
torch.set_num_threads(1)


@pytest.fixture(scope='session')
def digits_root(tmp_path_factory) -> Path:
    """The embedded dataset with 12 training and 6 validation scenes."""
    return make_digits(tmp_path_factory.mktemp('data') / 'digits', train=12, val=6, progress=False)
