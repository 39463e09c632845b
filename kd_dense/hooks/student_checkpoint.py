"""The student's own checkpoint beside each checkpoint of the training."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..errors import SetupError
from ..hosts.checkpoints import STUDENT_PREFIX, model_state
from ..hosts.configs import plain_student
from ..registry import HOOKS
from ..version import __version__

SUFFIX = '_student'


def student_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The plain checkpoint of the student inside a checkpoint of a distiller.

    Args:
        checkpoint: as mmengine writes it; where EMA is on its weights are the averaged ones.

    Returns:
        ``state_dict``, which loads strictly into the student's plain model, and ``meta``: as it
        was, but ``cfg`` is a config of the student alone, and ``kd_dense_version`` is added.

    Raises:
        SetupError: the checkpoint holds no student.
    """
    state = checkpoint.get('state_dict', {})
    if not any(key.removeprefix('module.').startswith(STUDENT_PREFIX) for key in state):
        raise SetupError(
            f'This is no checkpoint of a distiller: no weight begins with {STUDENT_PREFIX!r}, '
            f'found {list(state)[:3] or sorted(checkpoint)}. A plain checkpoint needs no change.'
        )
    meta = {**(checkpoint.get('meta') or {}), 'kd_dense_version': __version__}
    text = _plain_config(meta.pop('cfg')) if 'cfg' in meta else None
    if text is not None:
        meta['cfg'] = text
    return {'meta': meta, 'state_dict': model_state(checkpoint)}


@lru_cache(maxsize=1)
def _plain_config(text: str) -> str | None:
    """The config of a distiller as one of its student alone, which needs no kd_dense."""
    config = Config.fromstring(text, '.py')
    try:
        plain = plain_student(config)
    except FileNotFoundError as error:
        print_log(f'The student file holds weights without their config: {error}', 'current', 30)
        return None
    return plain.pretty_text


@HOOKS.register_module()
class StudentCheckpointHook(Hook):
    """Write ``NAME_student.pth`` beside each ``NAME.pth`` that the checkpoint hook writes.

    It is made from the file, so both agree, EMA weights included; it is written beside its place
    and renamed, so a killed training leaves no half file; and it goes when its source goes.
    Only local files are followed, not the copies that ``published_keys`` makes.
    """

    priority = 'LOWEST'  # behind CheckpointHook

    def __init__(self) -> None:
        self._saved = False

    def before_train(self, runner: Runner) -> None:
        """Catch up with what a killed training had saved last."""
        self._saved = runner._resume and is_main_process()
        self._follow(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note that there will be a new file; called in the main process only."""
        self._saved = True

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Follow the files saved at an iteration."""
        self._follow(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Follow the files saved at an epoch."""
        self._follow(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Follow the best files."""
        self._follow(runner)

    def after_train(self, runner: Runner) -> None:
        """Follow what else was saved."""
        self._follow(runner)

    def _follow(self, runner: Runner) -> None:
        if not self._saved:
            return
        self._saved = False
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        info = runner.message_hub.runtime_info
        names = {hook.last_ckpt for hook in hooks}
        names |= {v for k, v in info.items() if k == 'last_ckpt' or k.startswith('best_ckpt')}
        for source in sorted(Path(name) for name in names if name):
            if source.is_file():
                _mirror(source)
        for hook in hooks:
            _remove_orphans(Path(hook.out_dir), hook.filename_tmpl)


def _mirror(source: Path) -> None:
    """Write the student's file of one checkpoint, unless it is there already."""
    target = source.with_name(f'{source.stem}{SUFFIX}{source.suffix}')
    time = source.stat().st_mtime_ns
    if target.is_file() and target.stat().st_mtime_ns == time:
        return
    # mapped into memory, so that the optimizer's part is never read
    checkpoint = torch.load(str(source), map_location='cpu', mmap=True, weights_only=False)
    part = target.with_name(f'.{target.name}.part')
    torch.save(student_checkpoint(checkpoint), part)
    os.utime(part, ns=(time, time))  # how a later call knows that it is up to date
    os.replace(part, target)


def _remove_orphans(folder: Path, template: str) -> None:
    """Remove the student files of checkpoints that were removed.

    Args:
        folder: where the checkpoint hook writes.
        template: how it names its files, such as ``'iter_{}.pth'``; others' files are left alone.
    """
    stem, suffix = os.path.splitext(template)
    numbered = r'\d+'.join(re.escape(part) for part in re.split(r'\{[^}]*\}', stem))
    ours = re.compile(rf'(best_.+_)?{numbered}{SUFFIX}{re.escape(suffix)}')
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        source = file.with_name(file.stem.removesuffix(SUFFIX) + file.suffix)
        if ours.fullmatch(file.name) and not source.exists():
            file.unlink()
