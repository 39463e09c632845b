"""The student's own checkpoint beside each checkpoint of the training."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from ..errors import SetupError
from ..files import written_whole
from ..hosts.checkpoints import STUDENT, model_state, not_finite, prefix_of
from ..hosts.configs import config_from_text, plain_student, with_readable_floats
from ..hosts.loading import load_mapped
from ..registry import HOOKS
from ..version import __version__
from .beside_checkpoints import BesideCheckpoints


def student_checkpoint(checkpoint: Mapping[str, Any], name: str = STUDENT) -> dict[str, Any]:
    """The plain checkpoint of the student inside a checkpoint of a distiller.

    Args:
        checkpoint: as mmengine writes it; where EMA is on its weights are the averaged ones.
        name: of a peer, in place of the student.

    Returns:
        ``state_dict``, which loads strictly into the student's plain model, and ``meta``: as it
        was, but ``cfg`` is a config of the student alone, and ``kd_dense_version`` is added.

    Raises:
        SetupError: the checkpoint holds no student.
    """
    state = checkpoint.get('state_dict', {})
    prefix = prefix_of(name)
    if not any(key.removeprefix('module.').startswith(prefix) for key in state):
        raise SetupError(
            f'This is no checkpoint of a distiller: no weight begins with {prefix!r}, '
            f'found {list(state)[:3] or sorted(checkpoint)}. A plain checkpoint needs no change.'
        )
    meta = {**(checkpoint.get('meta') or {}), 'kd_dense_version': __version__}
    text = _plain_config(meta.pop('cfg'), name) if 'cfg' in meta else None
    if text is not None:
        meta['cfg'] = text
    return {'meta': meta, 'state_dict': model_state(checkpoint, name)}


@lru_cache(maxsize=4)
def _plain_config(text: str, name: str) -> str | None:
    """The config of a distiller as one of its student alone, with no kd_dense but its backbone."""
    try:
        plain = plain_student(config_from_text(text), name)
    except (FileNotFoundError, SetupError) as error:
        print_log(f'The student file holds weights without their config: {error}', 'current', 30)
        return None
    return with_readable_floats(plain).pretty_text


@HOOKS.register_module()
class StudentCheckpointHook(BesideCheckpoints):
    """Write ``NAME_student.pth`` beside each ``NAME.pth`` that the checkpoint hook writes.

    It is made from the file, so both agree, EMA weights included; it is written beside its place
    and renamed, so a killed training leaves no half file; and it goes when its source goes.
    Only local files are followed, not the copies that ``published_keys`` makes. A student whose
    weights are not finite is not written, and that is said.

    Args:
        model: whose checkpoint is written: ``'student'``, or the name of a peer, for
            ``NAME_PEER.pth``; register the hook once for each.
    """

    catches_up = True

    def __init__(self, model: str = STUDENT) -> None:
        super().__init__()
        self.model = model

    @property
    def suffix(self) -> str:
        """What the file's name ends with."""
        return f'_{self.model}'

    def beside(self, source: Path) -> Path:
        """Where the student of a checkpoint is written."""
        return source.with_name(f'{source.stem}{self.suffix}{source.suffix}')

    def source_of(self, file: Path) -> Path | None:
        """The checkpoint that a file is the student of; None where it is no student's file."""
        if not file.stem.endswith(self.suffix):
            return None
        return file.with_name(file.stem.removesuffix(self.suffix) + file.suffix)

    def write(self, source: Path) -> None:
        """Write the student's file of one checkpoint, unless it is there already."""
        target, time = self.beside(source), source.stat().st_mtime_ns
        if target.is_file() and target.stat().st_mtime_ns == time:
            return
        checkpoint = load_mapped(source, trust=self.written)
        student = student_checkpoint(checkpoint, self.model)
        if names := not_finite(student['state_dict']):
            target.unlink(missing_ok=True)
            print_log(
                f'{len(names)} weights of the {self.model} are not finite in {source}, such as '
                f'{names[0]}: {target.name} is not written. Go on from an older checkpoint, with a '
                'lower learning rate.',
                'current',
                logging.ERROR,
            )
            return
        with written_whole(target) as part:
            torch.save(student, part)
            os.utime(part, ns=(time, time))  # how a later call knows that it is up to date
