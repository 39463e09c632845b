"""The world is made once; each row gets a copy to spoil."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.world import World, make_world


@pytest.fixture(scope='session')
def made(digits_root, tmp_path_factory) -> Path:
    """What no row changes."""
    return make_world(tmp_path_factory.mktemp('faults') / 'world', digits_root)


@pytest.fixture
def world(made, tmp_path) -> Iterator[World]:
    """A copy, removed behind the row."""
    folder = tmp_path / 'world'
    shutil.copytree(made, folder)
    yield World(folder)
    shutil.rmtree(folder)
