"""What the result of a training depends on, as one text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..hosts.configs import leaf_datasets
from ..hosts.loading import sha256
from ..store.dataset import TEACHER as STORED
from ..store.manifest import FILE as MANIFEST

LOADERS = ('train_dataloader', 'val_dataloader')
FILES = ('checkpoint', 'load_from', 'weights', 'file')  # keys whose files a training begins with
# where a training writes and what it says, not what comes out
APART = ('work_dir', 'data_help', 'log_level', 'visualizer', 'vis_backends', 'launcher', 'resume')
# hooks that leave a training as it is to the bit; older ones of that kind stand in fingerprints
# that were noted, and count
ONLY_LOOKING = ('ValidationLossHook',)


def fingerprint(config: Config, needs: Mapping[str, str], besides: str = '') -> str:
    """A fingerprint of a training: equal for trainings with the same result.

    It is of the config, of the names and contents of annotation files and of checkpoints from
    outside the chain, and of the trainings that it needs. Where data lies does not count, nor the
    versions of packages.

    Args:
        config: whole; other stages stand there in braces.
        needs: fingerprints of the stages that it needs, by name.
        besides: what else it depends on.
    """
    said = {key: value for key, value in config.to_dict().items() if key not in APART}
    if said.get('custom_hooks'):
        said['custom_hooks'] = [hook for hook in said['custom_hooks'] if not _only_looks(hook)]
    text = json.dumps(said, sort_keys=True, default=str)
    for root in sorted(_roots(config), key=len, reverse=True):
        text = text.replace(root, 'DATA/')
    digest = hashlib.sha256((text + besides).encode())
    for part in LOADERS:
        for mark in _data_marks(config, part):
            digest.update(mark.encode())
    for path in sorted(path for path in _named(said) if path.is_file()):
        digest.update(sha256(path).encode())
    for name, text in sorted(needs.items()):
        digest.update(f'{name}={text}'.encode())
    return digest.hexdigest()[:32]


def is_whole(config: Config) -> bool:
    """Whether the data and the checkpoints are here that a fingerprint of a training is made of.

    Args:
        config: as for :func:`fingerprint`.
    """
    data = (each for part in LOADERS for each in _datasets(config, part))
    return all(map(_is_here, data)) and all(path.is_file() for path in _named(config.to_dict()))


def _is_here(dataset: Mapping[str, Any]) -> bool:
    root = Path(dataset.get('data_root') or '')
    if dataset.get('ann_file'):
        return (root / dataset['ann_file']).is_file()
    return all((root / name).is_dir() for name in (dataset.get('data_prefix') or {}).values())


def _only_looks(hook: Mapping[str, Any]) -> bool:
    return str(hook.get('type', '')).split('.')[-1] in ONLY_LOOKING


def _datasets(config: Config, part: str) -> Iterator[Mapping[str, Any]]:
    loader = config.get(part)
    yield from leaf_datasets(loader['dataset']) if loader else ()


def _roots(config: Config) -> set[str]:
    """The folders that the data lies in, as the config writes them."""
    found = (each.get('data_root') for part in LOADERS for each in _datasets(config, part))
    return {json.dumps(root)[1:-1] for root in found if root}


def _data_marks(config: Config, part: str) -> Iterator[str]:
    """Texts for each data set of a part: of its annotation file, or names and sizes of pictures.

    Data that is not there is left to the check of the training, which says how to get it.
    """
    beside = ((config.get(part) or {}).get('dataset') or {}).get('unlabelled')
    if isinstance(beside, str):
        yield part + _listed(Path(beside), [Path(beside)])
    for each in _datasets(config, part):
        root = Path(each.get('data_root') or '')
        file = root / (each.get('ann_file') or '')
        prefix = dict(each.get('data_prefix') or {})
        if each.get('ann_file') and file.is_file():
            yield f'{part}:{sha256(file)}'
            # of a segmentor's data that is a list of names: the labels are pictures
            prefix = {key: name for key, name in prefix.items() if key == 'seg_map_path'}
        folders = sorted(root / name for name in prefix.values() if name)
        if listed := _listed(root, folders):
            yield part + listed


def _listed(root: Path, folders: Iterable[Path]) -> str:
    """Names, from a folder on, and sizes of the files in some folders."""
    files = [path for folder in folders for path in sorted(folder.rglob('*.*'))]
    return ''.join(f'{p.relative_to(root)}:{p.stat().st_size};' for p in files)


def _named(value: Any, key: str = '') -> Iterator[Path]:
    """The local checkpoints that a config names, but for those of stages."""
    if isinstance(value, Mapping):
        if str(value.get('type')).split('.')[-1] == STORED:
            yield Path(value.get('path', ''), MANIFEST)
        for name, each in value.items():
            yield from _named(each, str(name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _named(each, key)
    elif key in FILES and _is_path(value):
        yield Path(value)


def _is_path(value: Any) -> bool:
    """Whether a value names a file: no address, no stage, no word such as ``weights='own'``."""
    text = value if isinstance(value, str) else ''
    return '://' not in text and '{' not in text and bool(Path(text).suffix)
