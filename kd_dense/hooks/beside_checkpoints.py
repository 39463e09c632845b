"""Files that are kept beside each checkpoint of a training, and go when it goes."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner


class BesideCheckpoints(Hook):
    """Write a file beside each one that MMEngine's ``CheckpointHook`` writes.

    Attributes:
        catches_up: whether a resumed training writes what a killed one had not come to.
        written: whether this training has written a checkpoint itself.
    """

    priority = 'LOWEST'  # behind CheckpointHook
    catches_up = False

    def __init__(self) -> None:
        self._saved = False
        self.written = False

    @abstractmethod
    def beside(self, source: Path) -> Path:
        """Where the file of a checkpoint is written."""

    @abstractmethod
    def source_of(self, file: Path) -> Path | None:
        """The checkpoint that a file belongs to; None where it is no such file."""

    @abstractmethod
    def write(self, source: Path) -> None:
        """Write the file of one checkpoint."""

    def before_train(self, runner: Runner) -> None:
        """Catch up with what a killed training had saved last."""
        self._saved = self.catches_up and runner._resume and is_main_process()
        self._follow(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note that there will be a new file; called in the main process only."""
        self._saved = self.written = True

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
                self.write(source)
        for hook in hooks:
            self._remove_orphans(Path(hook.out_dir), hook.filename_tmpl)

    def _remove_orphans(self, folder: Path, template: str) -> None:
        """Remove the files of checkpoints that were removed.

        Args:
            folder: where the checkpoint hook writes.
            template: how it names its files, such as ``'iter_{}.pth'``; others are left alone.
        """
        stem, suffix = os.path.splitext(template)
        numbered = r'\d+'.join(re.escape(part) for part in re.split(r'\{[^}]*\}', stem))
        ours = re.compile(rf'(best_.+_)?{numbered}{re.escape(suffix)}')
        for file in folder.iterdir() if folder.is_dir() else ():
            source = self.source_of(file)
            if source is not None and ours.fullmatch(source.name) and not source.exists():
                file.unlink()
