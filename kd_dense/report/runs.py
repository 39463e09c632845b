"""Read the work directories of trainings, and who taught whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..errors import SetupError
from ..hosts import read_model_config
from ..hosts.checkpoints import checkpoints_of
from ..logs import by_epoch, read_scalars, validations
from ..record import FILE, read_record

TEACHER, ALONE, DISTILLED, OTHER = ROLES = ('teacher', 'alone', 'distilled', 'other')

ROLE_TEXT = {
    TEACHER: 'teacher',
    ALONE: 'student alone',
    DISTILLED: 'student, distilled',
    OTHER: 'unrelated',
}
COLOURS = {
    TEACHER: ('#5b6472', '#98a1ad', '#3a4250'),
    ALONE: ('#d0801f', '#e3ad6a', '#a55f0c'),
    DISTILLED: ('#00796b', '#3f5bd8', '#9c36b5', '#5c940d', '#c2255c'),
    OTHER: ('#868e96', '#adb5bd', '#495057'),
}


@dataclass
class Run:
    """One training.

    Attributes:
        folder: its work directory.
        config: that it ran with.
        name: what it is called on the page.
        role: one of :data:`ROLES`.
        why: how the role was recognised, in words.
        colour: on the page and in its pictures.
        index: of the run on the page.
    """

    folder: Path
    config: Config
    name: str
    role: str = OTHER
    why: str = ''
    colour: str = ''
    index: int = 0

    @property
    def role_text(self) -> str:
        """The role, in words."""
        return ROLE_TEXT[self.role]

    @cached_property
    def lines(self) -> list[dict]:
        """All that was logged."""
        return read_scalars(self.folder)

    @cached_property
    def validations(self) -> dict[int, dict[str, float]]:
        """The metrics by step, or epoch."""
        return validations(self.lines)

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last validation; empty where there was none."""
        return list(self.validations.values())[-1] if self.validations else {}

    @property
    def validated_at(self) -> str:
        """When the last validation was, in words."""
        if not self.validations:
            return 'never validated'
        unit = 'epoch' if by_epoch(self.lines) else 'step'
        return f'{unit} {max(self.validations)}'

    @cached_property
    def checkpoint(self) -> Path | None:
        """The last checkpoint that is there."""
        return next(iter(checkpoints_of(self.folder)), None)

    @cached_property
    def balance(self) -> dict[str, Any] | None:
        """What ``LossBalanceHook`` measured.

        Raises:
            SetupError: the file is damaged.
        """
        path = self.folder / 'loss_balance.json'
        try:
            return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None
        except ValueError as error:
            raise SetupError(
                f'{path} cannot be read ({error}). Remove it; the report then says nothing of the '
                'balance of the losses.'
            ) from None

    @cached_property
    def record(self) -> dict[str, Any] | None:
        """What the training recorded of itself (:mod:`kd_dense.record`); None where it did not."""
        return read_record(self.folder)

    @cached_property
    def model_config(self) -> ConfigDict:
        """Of the model that is shipped: of a distiller, its student."""
        return read_model_config(self.config.to_dict(), self.name)

    @property
    def segments(self) -> bool:
        """Whether the model segments; else it detects."""
        return 'decode_head' in self.model_config


def read_runs(
    folders: Sequence[Path],
    names: Sequence[str] | None = None,
    roles: Sequence[str] | None = None,
    options: dict | None = None,
) -> list[Run]:
    """Read trainings, teachers first, then students alone, then distilled ones.

    Args:
        folders: work directories.
        names: of the runs; default: the folders' own.
        roles: of the runs; default: by what they recorded of themselves.
        options: overrides of all configs.

    Raises:
        SetupError: a folder holds no config, or names and roles do not fit the folders.
    """
    folders = [Path(folder) for folder in folders]
    names = list(names or [folder.resolve().name for folder in folders])
    if len(names) != len(folders) or len(set(names)) != len(names):
        raise SetupError(
            f'There are {len(folders)} work directories and the names {names}: give each a name of '
            'its own with --names.'
        )
    if roles and len(roles) != len(folders):
        raise SetupError(f'There are {len(folders)} work directories and {len(roles)} --roles.')
    runs = [_read_run(folder, name, options) for folder, name in zip(folders, names, strict=True)]
    if len({run.segments for run in runs}) > 1:
        kinds = ', '.join(f'{r.name} {"segments" if r.segments else "detects"}' for r in runs)
        raise SetupError(f'One report shows one task, these are two: {kinds}.')
    _assign_roles(runs)
    for run, role in zip(runs, roles or (), strict=False):
        run.role, run.why = role, 'as given by --roles'
    runs = sorted(runs, key=lambda run: ROLES.index(run.role))
    colours = {role: cycle(found) for role, found in COLOURS.items()}
    for index, run in enumerate(runs):
        run.index, run.colour = index, next(colours[run.role])
    return runs


def _read_run(folder: Path, name: str, options: dict | None) -> Run:
    own = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
    found = [*own, *sorted(folder.glob('*/vis_data/config.py'))]
    if not found:
        raise SetupError(
            f'{folder} holds no training: neither a config (*.py) nor */vis_data/config.py is '
            'there. Name work directories that `kd-dense train` wrote.'
        )
    config = Config.fromfile(found[-1])
    if options:
        config.merge_from_dict(options)
    return Run(folder, config, name)


def _assign_roles(runs: Sequence[Run]) -> None:
    """Recognise roles by what the trainings recorded of themselves."""
    distilled = [run for run in runs if run.record and run.record['role'] == 'distilled']
    for run in runs:
        if run in distilled:
            names = ', '.join(run.record['teachers'])
            run.role, run.why = DISTILLED, f'it recorded that it was taught ({names})'
        elif run.record is None:
            run.why = f'there is no {FILE} in its folder; say what it is with --roles'
        else:
            run.role, run.why = _role_beside(run, distilled)


def _role_beside(run: Run, distilled: Sequence[Run]) -> tuple[str, str]:
    """What a plain training is to the distilled ones, and why."""
    for pupil in distilled:
        for teacher in pupil.record['teachers'].values():
            checkpoint = teacher['checkpoint']
            if checkpoint and Path(checkpoint).parent == run.folder.resolve():
                return TEACHER, f'{pupil.name} was taught by its {Path(checkpoint).name}'
            if teacher['network'] == run.record['network']:
                return TEACHER, f'the same network as the teacher of {pupil.name}'
        if pupil.record['network'] == run.record['network']:
            return ALONE, f'the same network as the student of {pupil.name}'
    return OTHER, 'neither the teacher nor the student of a distilled run given here'
