"""Checkpoint files, read without running what is in them, compared with their sums and hashes.

Wherever MMEngine reads a checkpoint, it does so through here while :func:`guarded_loading` lasts.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as host

from ..errors import SetupError
from ..files import written_whole

try:
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray

SUM = '.sha256'  # what is added to a checkpoint's name for the file of its sum
FORCED = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'  # torch's own variable; what calls torch.load obeys it
# by this ending publishers name a file: gfl_r50-0123abcd.pth
HASH = re.compile(r'-([0-9a-f]{8,64})\.\w+$')
DATE = re.compile(r'(19|20)\d{6}')
CANNOT_READ = (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError,
               ImportError)  # fmt: skip
_trusted: ContextVar[bool] = ContextVar('trusted', default=False)
_http: ContextVar[bool] = ContextVar('http', default=False)


def _allowed() -> list[Any]:
    """What checkpoints of MMEngine hold besides tensors, numbers, texts, lists and dicts."""
    reconstruct, scalar = multiarray._reconstruct, multiarray.scalar
    numbers = (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)
    listed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, reconstruct, scalar]
    listed += [type(np.dtype(number)) for number in numbers]
    # files of numpy 1 and 2 name the same things differently
    named = [(reconstruct, '_reconstruct'), (scalar, 'scalar')]
    folders = ('numpy.core.multiarray', 'numpy._core.multiarray')
    listed += [(each, f'{folder}.{name}') for each, name in named for folder in folders]
    return [*listed, (_statistic, 'builtins.getattr')]


def _statistic(kind: Any, name: str) -> Any:
    """In place of ``getattr``, by which a checkpoint names the statistics of its logs."""
    if kind is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f'Weights only load failed: global builtins.getattr of {name!r}')
    return getattr(HistoryBuffer, name)


# torch 2.6 and later, which also take names for what is allowed
CAN_ALLOW = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')


@contextmanager
def guarded_loading(trust: bool = False, http: bool = False) -> Iterator[None]:
    """While this lasts, checkpoints are read as weights, wherever MMEngine reads them.

    With torch before 2.6, which cannot be told what to allow, all is read as MMEngine does.

    Args:
        trust: read those that hold more too, which may run their code.
        http: fetch from ``http://`` too.
    """
    trust = trust or _trusted.get()
    token, http_token = _trusted.set(trust), _http.set(http or _http.get())
    forced, schemes, load_url = os.environ.get(FORCED), CheckpointLoader._schemes, host.load_url
    os.environ[FORCED] = '1' if CAN_ALLOW and not trust else '0'
    CheckpointLoader._schemes = schemes.copy()
    CheckpointLoader.register_scheme('', load_from_file, force=True)
    host.load_url = load_from_url
    try:
        yield
    finally:
        host.load_url, CheckpointLoader._schemes = load_url, schemes
        os.environ.pop(FORCED)
        if forced is not None:
            os.environ[FORCED] = forced
        _trusted.reset(token)
        _http.reset(http_token)


def _load(path: Path, **options: Any) -> Any:
    """``torch.load``; allowing each time anew, because MMEngine takes back what is allowed."""
    if not CAN_ALLOW or _trusted.get():
        return torch.load(str(path), weights_only=False, **options)
    with torch.serialization.safe_globals(_allowed()):
        return torch.load(str(path), weights_only=True, **options)


def load_from_file(filename: str | Path, map_location: Any = 'cpu') -> Any:
    """Read a local checkpoint, in place of MMEngine's function of the name.

    Raises:
        FileNotFoundError: there is no such file.
        SetupError: it is damaged, is no checkpoint, or holds more than weights.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'There is no checkpoint {path} (looked from {Path.cwd()}).')
    if not matches_sum(path):
        raise SetupError(
            f'The checkpoint {path} is damaged: its content is not what {path.name}{SUM} beside it '
            'says. Take the one before (--resume without a path does), or copy it again.'
        )
    with path.open('rb') as file:
        start = file.read(2)
    if start and start[:1] != b'\x80' and start != b'PK' and not tarfile.is_tarfile(path):
        raise SetupError(
            f'The checkpoint {path} cannot be read: it is no file that torch wrote. Name the '
            'checkpoint, or copy or train it again.'
        )
    try:
        return _load(path, map_location=map_location)
    except (OSError, *CANNOT_READ) as error:  # of a damaged file torch raises an OSError, too
        raise SetupError(f'The checkpoint {path} cannot be read: {reason(error)}') from error


def load_mapped(path: Path, trust: bool = False) -> Any:
    """Read a checkpoint mapped into memory, so that what is not used is never read.

    Args:
        path: of the file.
        trust: read it also where it holds more than weights.

    Raises:
        SetupError: it cannot be read, or holds more than weights.
    """
    with guarded_loading(trust):
        try:
            return _load(path, map_location='cpu', mmap=True)
        except (OSError, *CANNOT_READ) as error:
            raise SetupError(f'The checkpoint {path} cannot be read: {reason(error)}') from error


def load_from_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    **_: Any,
) -> Any:
    """Fetch a checkpoint unless it is in the cache, compare it with its name, and read it.

    Raises:
        OSError: it could not be fetched.
        SetupError: it is not what its name says, is no checkpoint, or would come by ``http://``.
    """
    if url.startswith('http://') and not _http.get():
        raise SetupError(
            f'{url} would be fetched without encryption: anybody on the way can change it. Use '
            'https://, or fetch it yourself and name the file. If nobody can on your network: '
            '--allow-http.'
        )
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(urlparse(url).path).name
    if not path.is_file():
        torch.hub.download_url_to_file(url, str(path), progress=progress)
    named = HASH.search(path.name)
    if named and not DATE.fullmatch(named[1]) and not sha256(path).startswith(named[1]):
        raise SetupError(
            f'{path}, fetched from {url}, is not what its name says: its SHA-256 begins with '
            f'{sha256(path)[: len(named[1])]}, not with {named[1]}. It was cut short, or is '
            'another file. Remove it, and fetch it again from a place that you trust.'
        )
    return load_from_file(path, map_location)


def asked_for(text: str) -> str | None:
    """The name that a checkpoint asks for besides weights, as torch's message has it."""
    found = re.search(r'GLOBAL ([\w.]+)', text) or re.search(r'global ([\w.]+\.\w+)', text)
    return found[1] if found else None


def reason(error: Exception) -> str:
    """Why a checkpoint could not be read, and the way out."""
    text = str(error).strip()
    if 'Weights only' in text or 'weights_only' in text:
        what = f'`{asked}`' if (asked := asked_for(text)) else 'more than tensors'
        return (
            f'it holds more than weights ({what}), and reading that could run code. If you trust '
            'who made it: --trust-checkpoint, or `trust=True` of a teacher.'
        )
    first = text.splitlines()[0][:200] if text else type(error).__name__
    return f'it may be cut short, or be no checkpoint ({first}). Copy or train it again.'


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; read once for as long as the file is not changed."""
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _sha256(path: Path, time: int, size: int) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def sum_file(path: Path) -> Path:
    """Where the sum of a checkpoint is kept."""
    return path.with_name(path.name + SUM)


def write_sum(path: Path) -> None:
    """Write the sum of a checkpoint beside it, as ``sha256sum --check`` reads it."""
    with written_whole(sum_file(path)) as part:
        part.write_text(f'{sha256(path)}  {path.name}\n', encoding='utf-8')


def matches_sum(path: Path) -> bool:
    """Whether a checkpoint is as its sum says; True where there is none."""
    file = sum_file(path)
    words = file.read_text(encoding='utf-8', errors='replace').split() if file.is_file() else []
    return not words or words[0] == sha256(path)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint was written to its end, and not changed since where it has a sum."""
    return zipfile.is_zipfile(path) and matches_sum(path)
