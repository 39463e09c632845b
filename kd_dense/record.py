"""``run.json``: what a training was, written by the training itself into its work directory."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process

from .errors import SetupError
from .files import written_whole
from .hosts import DISTILLER_TYPES, ModelSource, read_model_config
from .hosts.configs import models_of_teachers

FILE = 'run.json'
PACKAGES = (
    'kd_dense',
    'torch',
    'torchvision',
    'timm',
    'mmengine',
    'mmcv',
    'mmdet',
    'mmsegmentation',
)
# how a network is trained or initialised, not what it is
_NOT_THE_NETWORK = ('train_cfg', '_scope_', 'init_cfg', 'pretrained')


def network(source: ModelSource, role: str = 'student') -> str:
    """A fingerprint of a network: equal for configs that build the same one.

    Args:
        source: as of :func:`~kd_dense.hosts.read_model_config`; of a distiller its student counts.
        role: ``'teacher'`` or ``'student'``, for messages.
    """
    plain = read_model_config(source, role).to_dict()
    kept = {key: value for key, value in plain.items() if key not in _NOT_THE_NETWORK}
    if isinstance(kept.get('backbone'), dict):
        kept['backbone'] = {k: v for k, v in kept['backbone'].items() if k != 'init_cfg'}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a training stands on, and its GPU."""
    found = {'Python': sys.version.split()[0]}
    for name in PACKAGES:
        for distribution in (name, f'onedl-{name}', f'onedl-{name.replace("det", "detection")}'):
            try:
                found[name] = version(distribution)
            except PackageNotFoundError:
                continue
            break
    if torch.cuda.is_available():
        found['GPU'] = torch.cuda.get_device_name()
    return found


def command_used() -> str:
    """The command that this process runs, to be written down and run again."""
    program, *arguments = sys.orig_argv[1:] or ['']
    if Path(program).name == 'kd-dense':
        return shlex.join(['kd-dense', *arguments])
    return shlex.join(['python', program, *arguments])


@contextmanager
def recorded(config: Config, name: str, command: str | None = None) -> Iterator[None]:
    """Around a training: write its record at the start, and when and how it ended.

    What earlier starts in the same work directory wrote stays: a resumed training has several.

    Args:
        config: of the training; its ``work_dir`` is where the record goes.
        name: of the config.
        command: that it was started by; None for that of this process.
    """
    if not is_main_process():
        yield
        return
    path = Path(config.work_dir, FILE)
    record = _about(config, name, command or command_used())
    start: dict[str, Any] = dict(begin=_now(), end=None, ended='running')
    before = read_record(path.parent)
    record['starts'] = [*(before['starts'] if config.get('resume') and before else []), start]
    _write(path, record)
    try:
        yield
    except BaseException as error:
        start['ended'] = 'interrupted' if isinstance(error, KeyboardInterrupt) else 'failed'
        raise
    else:
        start['ended'] = 'finished'
    finally:
        start['end'] = _now()
        _write(path, record)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a work directory; None where there is none.

    Raises:
        SetupError: the file is damaged.
    """
    path = Path(folder, FILE)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise SetupError(
            f'{path} cannot be read ({error}). Remove it; a report then says that the training '
            'was not recorded.'
        ) from None


def minutes(record: Mapping[str, Any], folder: Path) -> float | None:
    """How long a training ran, over all its starts; None where that is unknown.

    Of a start that was killed it is until the last line of its log.

    Args:
        record: see :func:`read_record`.
        folder: the work directory.
    """
    logs = [path.stat().st_mtime for path in folder.glob('*/*.log')]
    total = 0.0
    for start in record['starts']:
        begin = datetime.fromisoformat(start['begin']).timestamp()
        end = datetime.fromisoformat(start['end']).timestamp() if start['end'] else None
        total += max(0.0, (end or max(logs, default=begin)) - begin) / 60
    return total or None


def _about(config: Config, name: str, command: str) -> dict[str, Any]:
    model = config.model
    distills = model.get('type') in DISTILLER_TYPES
    teachers = models_of_teachers(model) if distills else {}
    return dict(
        command=command,
        folder=os.getcwd(),
        config=name,
        role='distilled' if distills else 'plain',
        network=network(config.to_dict()),
        teachers={key: _teacher(teacher, key) for key, teacher in teachers.items()},
        seed=(config.get('randomness') or {}).get('seed'),
        versions=versions(),
    )


def _teacher(teacher: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What is known of a teacher: its file, and its network where it has one."""
    source, checkpoint = teacher.get('config'), teacher.get('checkpoint')
    local = checkpoint is not None and '://' not in str(checkpoint)
    stored = {'stored': str(Path(teacher['path']).resolve())} if 'path' in teacher else {}
    return stored | dict(
        config=source if isinstance(source, str) else None,
        checkpoint=str(Path(checkpoint).resolve()) if local else checkpoint,
        network=network(source, name) if source is not None else None,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec='seconds')


def _write(path: Path, record: Mapping[str, Any]) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
