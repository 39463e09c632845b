"""Real trainings of a tiny distiller, a few steps long."""

from collections.abc import Callable

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from tests.helpers.trainings import base_config, shapes_config


def make_runner(config: dict, validate: bool = False, hooks=(), **changes) -> Runner:
    """Make a runner; see :func:`training`."""
    if not validate:
        for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
            del config[key]
    config['model'].update(changes.pop('model', {}))
    runner = Runner.from_cfg(Config(config | changes))
    for hook in hooks:
        runner.register_hook(hook)
    return runner


@pytest.fixture
def training(digits_root, tmp_path) -> Callable[..., Runner]:
    """Make the runner of 4 steps of 2 images; keywords replace parts of its config.

    ``validate=False`` leaves validation out, ``work_dir`` names a folder below the test's own,
    ``hooks`` are registered as they are.
    """

    def make(work_dir: str = 'work', **choices) -> Runner:
        return make_runner(base_config(digits_root, tmp_path / work_dir), **choices)

    return make


@pytest.fixture
def segmenting(tmp_path) -> Callable[..., Runner]:
    """As :func:`training`, of segmentors by an adversarial game."""

    def make(work_dir: str = 'work', **choices) -> Runner:
        return make_runner(shapes_config(tmp_path / 'shapes', tmp_path / work_dir), **choices)

    return make
