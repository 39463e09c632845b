"""``manifest.json``: what a store holds, of which teacher, of which pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import SetupError
from ..files import written_whole
from ..views import HostInfo
from .kept import Kept

FILE = 'manifest.json'
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds.

    Attributes:
        kept: what of each view.
        views: of each picture, K.
        seed: that the seeds of views are made of.
        images: how many pictures.
        per_shard: records of a file.
        info: what two models may have to agree in, of the teacher.
        channels: of each level, by property.
        source: where the teacher came from, for messages.
        weights: SHA-256 of the teacher's.
        preprocessing: the student's, in whose images the teacher was shown the pictures.
        pipelines: of the data sets.
        classes: that the teacher knows; None where unknown.
        pictures: SHA-256 of the pictures' names and boxes.
        versions: of packages.
    """

    kept: Kept
    views: int
    seed: int
    images: int
    per_shard: int
    info: HostInfo
    channels: Mapping[str, list[int]]
    source: str
    weights: str
    preprocessing: Mapping[str, Any]
    pipelines: list[Any]
    classes: tuple[str, ...] | None
    pictures: str
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """What the teacher's head is called, with the scale of its images."""
        return self.info.head

    @property
    def records(self) -> int:
        """Of all pictures and views."""
        return self.images * self.views

    @property
    def shards(self) -> int:
        """Files of records."""
        return -(-self.records // self.per_shard)

    def write(self, folder: Path) -> None:
        """Write it into a store's folder."""
        said = asdict(self) | dict(format=FORMAT)
        said['info']['abilities'] = sorted(self.info.abilities)
        with written_whole(folder / FILE) as part:
            part.write_text(json.dumps(said, indent=1), encoding='utf-8')

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read that of a store.

        Raises:
            FileNotFoundError: there is none.
            SetupError: it is none, or of another version of kd_dense.
        """
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f'There is no store {folder} (it would hold a {FILE}; looked from {Path.cwd()}). '
                'Write it: kd-dense store-teacher CONFIG --to FOLDER'
            )
        try:
            said = json.loads(path.read_text(encoding='utf-8'))
            if said.pop('format') != FORMAT:
                raise SetupError(
                    f'{path} was written by a kd_dense of another version. Write the store anew.'
                )
            known = {each.name for each in fields(HostInfo) if each.init}
            info = {key: value for key, value in said['info'].items() if key in known}
            info['strides'] = tuple(info['strides'])
            info['abilities'] = frozenset(info['abilities'])
            said['info'] = HostInfo(**info)
            kept = said['kept']
            said['kept'] = Kept(**(kept | {key: tuple(kept[key]) for key in ('reads', 'regions')}))
            said['classes'] = None if said['classes'] is None else tuple(said['classes'])
            return cls(**said)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise SetupError(
                f'{path} is no manifest of a store, or is damaged ({error}). Write the store anew.'
            ) from None


def differences(ours: Manifest, theirs: Manifest) -> list[str]:
    """In what a store that is begun and one that is asked for differ, in words.

    Args:
        ours: of the store.
        theirs: what it would be written with now.
    """
    words = dict(
        kept='what is kept',
        views='--views',
        seed='--seed',
        weights="the teacher's weights",
        preprocessing="the student's data preprocessor",
        pipelines='the pipeline of the training images',
        pictures='the training images or their boxes',
        classes='the classes',
        info='the head of the teacher',
        head="the teacher's head, or the scale of its images",
    )
    return [text for name, text in words.items() if getattr(ours, name) != getattr(theirs, name)]
