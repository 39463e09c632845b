"""One training of a chain: a stage, under one seed, with its folder and what came out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..hosts.checkpoints import checkpoints_of
from ..hosts.configs import teachers_of
from ..losses.build import build_losses
from .fingerprint import fingerprint, is_whole
from .notes import read_note, row_of

PLACE = re.compile(r'\{([A-Za-z_][\w-]*)(?:\.(\w+))?\}')  # {NAME}, {NAME.best}, {NAME.config}
SHIFTED = 'student.pth'  # what kd-dense class-bias writes
PARTS = (None, 'best', 'config')


@dataclass(frozen=True)
class Stage:
    """One training of a chain file.

    Attributes:
        name: in the file.
        about: what the file says of it.
        control: whether the others are compared with it.
        needs: names of the stages whose checkpoints or configs it takes.
    """

    name: str
    about: Mapping[str, Any]
    control: bool
    needs: tuple[str, ...]

    @property
    def title(self) -> str:
        """In words."""
        return self.about.get('title', self.name.replace('_', ' '))


@dataclass(eq=False)
class Job:
    """A stage under one seed of the chain.

    Attributes:
        stage: what is trained.
        run_seed: of the chain; None where it has none, or where the stage is trained once.
        folder: its work directory.
        rows: where its row is kept besides; None for nowhere.
        config: of the training, whole; the stages that it needs stand there in braces.
        stores: where what teachers say is stored, for stages that ask for that.
        needs: the jobs that it needs, by name.
    """

    stage: Stage
    run_seed: int | None
    folder: Path
    rows: Path | None
    config: Config
    stores: Path = Path('stores')
    needs: dict[str, Job] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the stage, with the seed where there are several."""
        seed = '' if self.run_seed is None else f', seed {self.run_seed}'
        return f'{self.stage.name}{seed}'

    @property
    def config_file(self) -> Path:
        """Where the config is written, ready to be trained by hand too."""
        return self.folder.with_name(f'{self.folder.name}.py')

    @property
    def row_file(self) -> Path | None:
        """Where its row is kept besides."""
        seed = '' if self.run_seed is None else f'_seed{self.run_seed}'
        return None if self.rows is None else self.rows / f'{self.stage.name}{seed}.json'

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that the result depends on; see :func:`.fingerprint.fingerprint`."""
        needs = {name: job.fingerprint for name, job in self.needs.items()}
        besides = [*self.evaluates, *map(str, self.class_bias or ())]
        besides += [f'stored={self.stored}'] if self.stored else []
        return fingerprint(self.config, needs, ' '.join(besides))

    @property
    def is_whole(self) -> bool:
        """Whether all is here that the fingerprint looks at, for the jobs that it needs too."""
        return is_whole(self.config) and all(need.is_whole for need in self.needs.values())

    @property
    def evaluates(self) -> list[str]:
        """Checkpoints whose mean it tests, as the file names them; empty of a training."""
        return list(self.stage.about.get('evaluates', ()))

    @property
    def class_bias(self) -> tuple[str, str | float] | None:
        """The class whose bias is shifted in what it tests, and the shift."""
        return next(iter(self.stage.about.get('class_bias', {}).items()), None)

    @property
    def stored(self) -> int:
        """Views of each image whose answers of the teacher are stored; 0 where the teacher runs."""
        return int(self.stage.about.get('stored', 0))

    @property
    def store(self) -> Path:
        """Folder of the store: one for all jobs of the same models and data that read the same."""
        model = self.config.model
        losses = build_losses(model.get('losses') or {}, list(teachers_of(model)), [])
        counted = [each for each in losses.values() if each.weight]
        read = {(name, each.looks_at) for each in counted for name in each.read_names()}
        told = dict(
            teachers=teachers_of(model),
            student=model['student'],
            labels=model.get('own_loss', True),
            read=sorted(read),
            data=self.config.train_dataloader['dataset'],
            views=self.stored,
        )
        text = json.dumps(told, sort_keys=True, default=str)
        teachers = {match[1] for match in PLACE.finditer(text)}
        text += ''.join(self.needs[name].fingerprint for name in sorted(teachers))
        return self.stores / hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def begun(self) -> bool:
        """Whether its folder holds a training of just this, done or not."""
        return read_note(self.folder).get('fingerprint') == self.fingerprint

    @property
    def trained(self) -> bool:
        """Whether it is done, and its checkpoint is there."""
        made = bool(self.evaluates) or self.checkpoint() is not None
        return made and self.begun and 'row' in read_note(self.folder)

    @property
    def row(self) -> dict[str, Any] | None:
        """What came out, where it is done, here or, by its kept row, elsewhere."""
        found = read_note(self.folder)
        if found.get('fingerprint') != self.fingerprint or 'row' not in found:
            found = row_of(self.row_file)
        return found['row'] if found.get('fingerprint') == self.fingerprint else None

    def checkpoint(self, best: bool = False) -> Path | None:
        """The plain student that is handed over: the last one, or the best; None without any."""
        if self.class_bias:
            shifted = self.folder / SHIFTED
            return shifted if shifted.is_file() else None
        found = sorted(self.folder.glob('best_*.pth')) if best else []
        found = [path for path in found if not path.stem.endswith('_student')]
        found = found[-1:] or checkpoints_of(self.folder)[:1]
        if not found:
            return None
        student = found[0].with_stem(f'{found[0].stem}_student')
        return student if student.is_file() else found[0]

    def filled(self, text: str) -> str:
        """A text with the files of other jobs in the place of their names in braces."""

        def file(match: re.Match[str]) -> str:
            job = self.needs.get(match[1])
            if job is None or match[2] not in PARTS:
                return match[0]
            path = job.config_file if match[2] == 'config' else job.checkpoint(match[2] == 'best')
            return str(path)

        return PLACE.sub(file, text)
