"""Read a chain file: its stages, who needs whom, and the jobs that come of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..building import did_you_mean, listed
from ..errors import SetupError
from .job import PARTS, PLACE, Job, Stage
from .stage_config import stage_config

CHAIN_KEYS = {
    'folder': 'where the trainings go',
    'stages': 'the trainings, by name',
    'compare': 'controls, by name: trainings that the others are compared with',
    'seeds': 'of the whole chain; each trains all stages',
    'prepare': 'commands to run first, such as one that builds the data',
    'environment': 'variables that the configs read',
    'metrics': 'columns of the table: keys of the log by title',
    'rows': 'folder that gets one small JSON file of each finished training',
    'side_by_side': 'how many trainings run at once',
}
STAGE_KEYS = {
    'config': 'of the training, a path or an mmdet:: or mmseg:: name',
    'title': 'in words',
    'student': 'config whose model is trained instead',
    'teacher': "'{NAME}' of another stage, or a teacher's config and checkpoint",
    'evaluates': "stages whose mean prediction is tested, in the place of a training: ['{NAME}']",
    'class_bias': "shifts one class's bias in what is tested: {'three': 'auto'}; see class-bias",
    'recipe': "how the teacher teaches: a recipe's name, path, or 'auto'; config is a plain one",
    'options': 'changes of the config, as --cfg-options takes them',
    'steps': 'iterations (or epochs, where the config counts them); schedules stretch along',
    'seed': 'its own part of the seed, so that equal stages begin differently',
    'once': 'train it once for all seeds of the chain',
    'data': "folder of your own data",
    'classes': 'names of the classes in `data`, where it does not tell them',
    'unlabelled': "folder of images without labels, or 'rest'; or a dict(folder=..., ratio=...)",
    'stored': 'views of each training image; what the teacher says of them is stored first',
    'minutes': 'that it usually takes, for the estimate',
}  # fmt: skip
NAME = re.compile(r'[A-Za-z_][\w-]*')


@dataclass
class Chain:
    """What a chain file says.

    Attributes:
        file: its path.
        folder: where the trainings go.
        stages: by name, in the order of the file; controls last.
        jobs: one for each stage and seed.
        settings: the rest of the file.
    """

    file: Path
    folder: Path
    stages: dict[str, Stage]
    jobs: list[Job]
    settings: Mapping[str, Any]

    def chosen(self, only: Sequence[str]) -> list[Job]:
        """The jobs of some stages; of all without names.

        Raises:
            SetupError: there is no such stage.
        """
        for name in only:
            if name not in self.stages:
                raise SetupError(
                    f'There is no stage {name!r} (--only).{did_you_mean(name, list(self.stages))} '
                    f'{self.file} has {listed(list(self.stages))}.'
                )
        return [job for job in self.jobs if not only or job.stage.name in only]


def read_chain(path: str | Path, seeds: Sequence[int] | None = None) -> Chain:
    """Read a chain file and the configs of all its stages.

    Args:
        path: of the file.
        seeds: of the chain, instead of those in the file.

    Raises:
        FileNotFoundError: the file, or a config or data of a stage, is not there.
        SetupError: an unknown key or name, stages that wait for each other, or a wrong option.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'There is no chain file {path} (looked from {Path.cwd()}).')
    said = Config.fromfile(path, import_custom_modules=False).to_dict()
    said = {key: value for key, value in said.items() if not key.startswith('_')}  # its own names
    check_keys(str(path), said, CHAIN_KEYS)
    os.environ.update({key: str(value) for key, value in said.get('environment', {}).items()})
    stages = {name: each for name, each in _stages(path, said)}
    folder = Path(said.get('folder', Path('work_dirs', 'chains', path.stem)))
    chain = Chain(path, folder, stages, [], said)
    chain.jobs = list(_jobs(chain, seeds if seeds is not None else said.get('seeds')))
    return chain


def check_keys(where: str, found: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Check the keys of a part of a chain file.

    Raises:
        SetupError: one is unknown.
    """
    for key in found:
        if key not in known:
            raise SetupError(
                f'{where}: nothing reads {key!r}.{did_you_mean(key, list(known))} It takes '
                f'{"; ".join(f"`{name}` ({what})" for name, what in known.items())}. Names of your '
                'own begin with _.'
            )


def _stages(path: Path, said: Mapping[str, Any]) -> Iterator[tuple[str, Stage]]:
    """The stages, checked, and ordered so that none comes before what it needs."""
    parts = {part: said.get(part) or {} for part in ('stages', 'compare')}
    if not parts['stages']:
        raise SetupError(f'{path} has no `stages`: name trainings, as docs/chains.md shows.')
    abouts = {name: about for part in parts.values() for name, about in part.items()}
    if twice := sorted(set(parts['stages']) & set(parts['compare'])):
        raise SetupError(f'{path}: {twice[0]!r} is in `stages` and in `compare`; rename one.')
    needs: dict[str, tuple[str, ...]] = {}
    for name, about in abouts.items():
        where = f'{path}: stage {name!r}'
        if not NAME.fullmatch(name):
            raise SetupError(f'{where}: names are letters, digits, _ and -; it is a folder too.')
        if not isinstance(about, Mapping) or 'config' not in about:
            raise SetupError(f'{where} has no `config`: name the config of a training.')
        check_keys(where, about, STAGE_KEYS)
        if 'class_bias' in about:
            _check_class_bias(where, about)
        if type(about.get('stored', 1)) is not int or about.get('stored', 1) < 1:
            raise SetupError(f'{where}: stored is {about["stored"]!r}; it is a number of views.')
        needs[name] = tuple(dict.fromkeys(_named(where, about, list(abouts))))
    waiting = dict(abouts)
    while waiting:
        ready = [name for name in waiting if not set(needs[name]) & set(waiting)]
        if not ready:
            raise SetupError(f'{path}: the stages {listed(list(waiting))} wait for each other.')
        for name in ready:
            yield name, Stage(name, waiting.pop(name), name in parts['compare'], needs[name])


def _check_class_bias(where: str, about: Mapping[str, Any]) -> None:
    """Check what a stage says of a shift: one class of one student."""
    said = about['class_bias']
    if not isinstance(said, Mapping) or len(said) != 1 or len(about.get('evaluates', ())) != 1:
        raise SetupError(
            f"{where}: class_bias is {said!r}; it names one class, as {{'three': 'auto'}}, and "
            "`evaluates` names one stage, as ['{NAME}']."
        )


def _named(where: str, value: Any, known: list[str]) -> Iterator[str]:
    """The stages that a part of a stage names in braces."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _named(where, each, known)
    elif isinstance(value, str):
        for match in PLACE.finditer(value):
            if match[1] not in known:
                raise SetupError(
                    f'{where} names {match[0]}, which is no stage.{did_you_mean(match[1], known)}'
                    f' Stages are {listed(known)}.'
                )
            if match[2] not in PARTS:
                raise SetupError(
                    f'{where} names {match[0]}: {{{match[1]}}} is the last checkpoint, '
                    f'{{{match[1]}.best}} the best one, {{{match[1]}.config}} the config.'
                )
            yield match[1]


def _jobs(chain: Chain, seeds: Sequence[int] | None) -> Iterator[Job]:
    """The jobs of a chain: each stage once, or once for each seed."""
    rows = chain.settings.get('rows')
    configs = {name: _config(chain, stage) for name, stage in chain.stages.items()}
    made: dict[tuple[str, int | None], Job] = {}
    for seed in [*seeds] if seeds else [None]:
        for name, stage in chain.stages.items():
            own = _own_seed(chain, stage, seed)
            if (name, own) in made:
                continue
            place = chain.folder / (f'seed_{own}' if own is not None else '') / name
            config = with_seed(configs[name], own, stage.about.get('seed'))
            stores = chain.folder / 'stores'
            job = Job(stage, own, place, Path(rows) if rows else None, config, stores)
            for each in stage.needs:
                job.needs[each] = made[each, _own_seed(chain, chain.stages[each], seed)]
            made[name, own] = job
            yield job


def _own_seed(chain: Chain, stage: Stage, seed: int | None) -> int | None:
    """The seed of a chain for one of its stages; None where that is trained once."""
    if not stage.about.get('once'):
        return seed
    if varying := [name for name in stage.needs if not chain.stages[name].about.get('once')]:
        raise SetupError(
            f'{chain.file}: the stage {stage.name!r} is trained once for all seeds, and needs '
            f'{listed(varying)}, of which each seed has its own.'
        )
    return None


def _config(chain: Chain, stage: Stage) -> Config:
    """The config of a stage; errors name the stage."""
    try:
        return stage_config(stage.about, {k: each.about for k, each in chain.stages.items()})
    except SetupError as error:
        raise SetupError(f'{chain.file}: stage {stage.name!r}: {error}') from error


def with_seed(config: Config, run_seed: int | None, shift: int | None) -> Config:
    """A copy of a stage's config with its seed.

    Args:
        config: of the stage.
        run_seed: of the chain.
        shift: of the stage; it counts in thousands, which keeps both apart.
    """
    copied = Config(config.to_dict())
    if run_seed is not None or shift is not None:
        seed = (run_seed or 0) + 1000 * (shift or 0)
        copied.randomness = {**(copied.get('randomness') or {}), 'seed': seed}
    return copied
