"""A small world to spoil: data, configs, checkpoints; and the tools, called in this process."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from kd_dense.datasets import CLASSES
from kd_dense.hosts import build_model, read_model_config
from tests.helpers import segmentation
from tests.helpers.models import gfl
from tests.helpers.trainings import base_config, shapes_config

NUMBERS = itertools.count()  # of calls
TEACHER = gfl(channels=32, num_classes=10)


@dataclass
class World:
    """A copy of the world that a row may spoil.

    Attributes:
        folder: of all files; the current directory of the tools.
        options: overrides for ``--cfg-options``, by key.
        environment: variables that the tool is given.
    """

    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def edit_json(self, change: Callable[[dict], Any], split: str = 'train') -> None:
        """Change the annotations of a split."""
        file = self / f'digits/annotations/{split}.json'
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    def edit_checkpoint(self, name: str, change: Callable[[dict], Any]) -> None:
        """Change a checkpoint."""
        checkpoint = torch.load(self / name, weights_only=False)
        change(checkpoint)
        torch.save(checkpoint, self / name)

    def edit_config(self, change: Callable[[Config], Any], name: str = 'ld.py') -> None:
        """Change a config."""
        config = Config.fromfile(self / name)
        change(config)
        config.dump(self / name)

    def first_image(self, split: str = 'train') -> Path:
        """A picture of a split."""
        return next(iter(sorted((self / 'digits/VOC2007/JPEGImages').glob(f'{split}_*'))))


@dataclass(frozen=True)
class Outcome:
    """How a tool ended.

    Attributes:
        code: its exit status.
        text: all that it printed.
    """

    code: int
    text: str


def call(world: World, tool: str, *arguments: object) -> Outcome:
    """Call a tool in this process, in the world's folder; a traceback is raised."""
    if tool in ('train', 'test'):  # mmengine shares loggers between equal names
        name = f'fault_{os.getpid()}_{next(NUMBERS)}'
        world.options = world.options | {'experiment_name': name}
    argv = [f'kd-dense {tool}', *map(str, arguments)]
    if world.options:
        argv += ['--cfg-options', *(f'{key}={value}' for key, value in world.options.items())]
    main = import_module(f'kd_dense.commands.{tool.replace("-", "_")}').main
    kept_argv, kept_folder, kept = sys.argv, Path.cwd(), dict(os.environ)
    sys.argv, code = argv, 0
    os.chdir(world.folder)
    os.environ.update(world.environment)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            main()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            printed.write(stopped.code)
    finally:
        sys.argv = kept_argv
        os.chdir(kept_folder)
        os.environ.clear()
        os.environ.update(kept)
    return Outcome(code, printed.getvalue())


def train(world: World, *arguments: object, config: str = 'ld.py', work: str = 'work') -> Outcome:
    """Train two steps."""
    return call(world, 'train', config, '--work-dir', work, *arguments)


def make_world(folder: Path, digits: Path) -> Path:
    """Data of a detector and of a segmentor, their configs, teachers and a training."""
    folder.mkdir()
    shutil.copytree(digits, folder / 'digits')
    _save(folder / 'teacher.pth', TEACHER, CLASSES)
    kept = Path.cwd()
    os.chdir(folder)
    try:
        detector = base_config(Path('digits'), Path('work'))
        detector.pop('experiment_name')
        detector['model']['teacher'] = dict(config=TEACHER, checkpoint='teacher.pth')
        detector['model']['losses'] = dict(
            ld=dict(type='kd_dense.LocalizationDistillation', region='main', weight=0.25),
            cls=dict(type='kd_dense.SoftTargets', region='main', temperature=2, weight=1),
            imitation=dict(type='kd_dense.FeatureImitation', region='all', weight=0.1),
        )
        detector['train_cfg'] |= dict(max_iters=2, val_interval=100)
        detector['log_level'] = 'WARNING'
        detector['default_hooks']['checkpoint'] |= dict(interval=1, max_keep_ckpts=3)
        detector |= {
            f'test_{part}': detector[f'val_{part}'] for part in ('dataloader', 'evaluator')
        }
        detector['test_cfg'] = dict()
        detector['load_from'], detector['resume'] = None, False
        detector['custom_hooks'] = [dict(type='kd_dense.StudentCheckpointHook')]
        Config(detector).dump('ld.py')
        alone = dict(detector) | dict(model=gfl(num_classes=10), custom_hooks=[])
        Config(alone).dump('alone.py')
        segmentor = shapes_config(Path('shapes'), Path('work'))
        segmentor.pop('experiment_name')
        Config(alone | dict(model=TEACHER)).dump('teacher.py')
        _save(folder / 'seg.pth', segmentation.segmentor(width=16), segmentation.CLASSES)
        segmentor['model']['teacher'] = dict(
            config=segmentation.segmentor(width=16), checkpoint='seg.pth'
        )
        segmentor['train_cfg'] |= dict(max_iters=2, val_interval=100)
        segmentor['log_level'] = 'WARNING'
        segmentor |= {f'test_{p}': segmentor[f'val_{p}'] for p in ('dataloader', 'evaluator')}
        segmentor['test_cfg'] = dict()
        Config(segmentor).dump('seg.py')
    finally:
        os.chdir(kept)
    done = train(World(folder), work='run')
    assert done.code == 0, done.text
    return folder


def _save(path: Path, model: dict, classes: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    built = build_model(read_model_config(model, 'teacher'))
    built.init_weights()
    meta = dict(dataset_meta=dict(classes=classes), cfg=Config(dict(model=model)).pretty_text)
    torch.save(dict(state_dict=built.state_dict(), meta=meta), path)
