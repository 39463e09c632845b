"""Compose a distillation from a student, a teacher and a recipe.

A recipe is a config, such as those in ``kd_dense/recipes``: its ``losses``, where it plays an
adversarial game the ``discriminator``'s optimizer, and in ``recipe`` for which host families it is
meant. Imports and hooks that every distillation needs are added to a recipe that has none.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from torch import nn

from .errors import SetupError
from .hosts import (
    ModelSource,
    build_model,
    isolated_rng,
    read_config_file,
    read_model_config,
    without_downloads,
)
from .losses.build import build_losses
from .own_data import use_data
from .pair import check_pair
from .teachers import FrozenTeacher
from .views import view_class

RECIPES = Path(__file__).parent / 'recipes'
ANY = 'any'  # host family
_folders = [RECIPES]


class Choice(NamedTuple):
    """A recipe that fits a pair.

    Attributes:
        name: of the recipe.
        path: of its file.
        refused: why those before it do not fit, by name.
    """

    name: str
    path: Path
    refused: dict[str, str]


def add_recipes(folder: str | Path) -> None:
    """Let a folder's recipes be found by name, and by ``auto``; of equal names the last one counts.

    To be called by a module of yours that ``custom_imports`` of the student's config names.

    Args:
        folder: of ``*.py`` files.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f'There is no folder of recipes {folder} (looked in {Path.cwd()}).')
    if Path(folder) not in _folders:
        _folders.append(Path(folder))


def recipes() -> dict[str, Path]:
    """The recipes that are known by name: those shipped, and those that were added."""
    return {path.stem: path for folder in _folders for path in sorted(folder.glob('*.py'))}


def preferred(family: str) -> list[str]:
    """The recipes that ``auto`` tries for a student, by its host family, the best one first.

    A recipe says itself where it is tried: ``recipe = dict(preferred={'one-stage': 1})``, with a
    host family, or ``'any'``, and a rank.
    """
    ranks = {}
    for name, path in recipes().items():
        families = _about(path).get('preferred', {})
        rank = families.get(family, families.get(ANY))
        if rank is not None:
            ranks[name] = rank
    return sorted(ranks, key=ranks.__getitem__)


def variant(name: str, family: str) -> str:
    """The recipe with the settings that a host family has for another one.

    Such a recipe says so: ``recipe = dict(instead_of='cwd', families=['one-stage'])``.
    """
    for other, path in recipes().items():
        about = _about(path)
        if about.get('instead_of') == name and family in about.get('families', ()):
            return other
    return name


def _about(path: Path) -> Mapping[str, Any]:
    """What a recipe says of itself."""
    return _read_about(path, path.stat().st_mtime_ns)


@cache
def _read_about(path: Path, written: int) -> Mapping[str, Any]:
    """The same, read once for as long as the file stays as it was written."""
    return Config.fromfile(path, import_custom_modules=False).get('recipe', {})


def find_recipe(name: str) -> Path:
    """The file of a recipe, by its name or its own path.

    Raises:
        FileNotFoundError: a path that leads nowhere.
        SetupError: no such name.
    """
    if name.endswith('.py'):
        if not Path(name).is_file():
            raise FileNotFoundError(f'There is no recipe {name} (looked from {Path.cwd()}).')
        return Path(name)
    if name not in recipes():
        raise SetupError(
            f'There is no recipe {name!r}; choose auto, {", ".join(recipes())}, or name a file of '
            'your own (--recipe my_recipe.py).'
        )
    return recipes()[name]


def read_recipe(path: Path) -> Config:
    """Read a recipe; one without imports or hooks gets those of every distillation.

    Raises:
        SetupError: it has no losses.
    """
    recipe = Config.fromfile(path)
    if not recipe.get('losses'):
        raise SetupError(
            f'{path} is no recipe: it has no `losses`, such as '
            "`losses = dict(hint=dict(type='kd_dense.FeatureImitation', weight=0.5))`."
        )
    common = Config.fromfile(RECIPES / '_base_' / 'distill_seg.py')
    imports = _imports(common) | _imports(recipe)
    recipe.custom_imports = dict(imports=list(imports), allow_failed_imports=False)
    recipe.setdefault('custom_hooks', common.custom_hooks)
    return recipe


def _imports(config: Config) -> dict[str, None]:
    """The modules that a config imports, in order."""
    imports = config.get('custom_imports', {}).get('imports', [])
    return dict.fromkeys([imports] if isinstance(imports, str) else imports)


def choose_recipe(student: nn.Module, teacher: nn.Module, same_classes: bool = True) -> Choice:
    """The first of the preferred recipes whose losses fit a pair.

    Args:
        student, teacher: the built models.
        same_classes: see :class:`~kd_dense.teachers.Teacher`.

    Raises:
        SetupError: none fits.
    """
    refused = {}
    family = view_class(student).family
    for name in preferred(family):
        name = variant(name, family)
        path = find_recipe(name)
        try:
            check_recipe(student, teacher, read_recipe(path).losses, same_classes)
        except SetupError as error:
            refused[name] = str(error)
            continue
        return Choice(name, path, refused)
    raise SetupError(
        'No recipe fits this pair.\n'
        + '\n'.join(f'{name}: {reason}' for name, reason in refused.items())
    )


def check_recipe(
    student: nn.Module, teacher: nn.Module, losses: ConfigDict, same_classes: bool = True
) -> None:
    """Check that a recipe's losses fit a pair.

    Raises:
        SetupError: they do not; the message says why.
    """
    with isolated_rng():
        built = build_losses(losses, ['teacher'])
        looked_at = FrozenTeacher.of(teacher, same_classes=same_classes)
        check_pair(student, looked_at, built)
        for loss in built.values():
            loss.connect(student, looked_at)


def compose(
    student: str,
    teacher: ModelSource,
    checkpoint: str | None,
    recipe: str = 'auto',
    same_classes: bool = True,
    data: str | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[Config, Choice]:
    """The config of a distillation: the student's, with a teacher and a recipe's losses.

    Args:
        student: a whole config, with data and schedule: a path, or an ``mmdet::`` or ``mmseg::``
            name.
        teacher: config of the teacher, as the student's, or a dict.
        checkpoint: of the teacher, a path or URL.
        recipe: name of a shipped one, path of another, or ``'auto'``; where the student's family
            has settings of its own for it, they are taken (:func:`variant`).
        same_classes: see :class:`~kd_dense.teachers.Teacher`.
        data, classes: own data; see :func:`~kd_dense.own_data.use_data`.

    Raises:
        FileNotFoundError: a config, a recipe's file or the data is not there.
        SetupError: no such recipe, or one that does not fit the pair.
    """
    if recipe != 'auto':
        find_recipe(recipe)  # before anything is built
    config = read_config_file(student, 'student')
    if 'train_dataloader' not in config or 'model' not in config:
        raise SetupError(
            f'{student} is no whole training: it needs `model`, `train_dataloader` and a schedule, '
            'as a config of mmdet or mmseg has them.'
        )
    if data is not None:
        use_data(config, data, classes)
    elif classes is not None:
        raise SetupError('--classes names those of --data, which was not given.')
    models = [
        build_model(without_downloads(read_model_config(source, role)))
        for source, role in ((config.to_dict(), 'student'), (teacher, 'teacher'))
    ]
    if recipe == 'auto':
        choice = choose_recipe(*models, same_classes)
        chosen = read_recipe(choice.path)
    else:
        path = find_recipe(variant(recipe, view_class(models[0]).family))
        choice = Choice(path.stem, path, {})
        chosen = read_recipe(path)
        check_recipe(*models, chosen.losses, same_classes)
    return _merged(config, teacher, checkpoint, chosen, same_classes), choice


def _merged(
    config: Config, teacher: ModelSource, checkpoint: str | None, recipe: Config, same_classes: bool
) -> Config:
    """A student's config with teacher and recipe."""
    merged = Config(config.to_dict())
    student = copy.deepcopy(merged.model)
    teacher_options = dict(config=teacher, checkpoint=checkpoint)
    if not same_classes:
        teacher_options['same_classes'] = False
    merged.model = ConfigDict(
        type='kd_dense.Distiller', student=student, teacher=teacher_options, losses=recipe.losses
    )
    imports = list(_imports(merged) | _imports(recipe))
    merged.custom_imports = dict(imports=imports, allow_failed_imports=False)
    merged.custom_hooks = [*merged.get('custom_hooks', []), *recipe.custom_hooks]
    if 'discriminator' in recipe:
        merged.optim_wrapper = dict(
            constructor='kd_dense.AdversarialOptimWrapperConstructor',
            student=merged.optim_wrapper,
            discriminator=recipe.discriminator,
        )
    return merged
