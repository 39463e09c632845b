"""Teacher assistants: models between a student and a teacher, and which of them to take.

Mirzadeh et al. ("Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, arXiv
1902.03393) find the best size by the accuracy that assistants reach alone: halfway between the
student's and the teacher's, rather than halfway in size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pprint import pformat
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from ..errors import SetupError
from ..hosts import (
    build_model,
    isolated_rng,
    read_config_file,
    read_model_config,
    without_downloads,
)
from ..report.speed import SIZE, count_flops
from .rows import Row, points, sample
from .stage_config import length

SHARE = 10  # of a schedule that candidates are trained for: a tenth
GROUPS = 8  # widths are multiples of this, as the groups of GroupNorm want it
NOT_WIDTHS = ('init_cfg', 'data_preprocessor', 'train_cfg', 'test_cfg', '_scope_')


class Candidate(NamedTuple):
    """A model between student and teacher.

    Attributes:
        name: of its stage.
        model: its config.
        parameters: how many weights it has.
        flops: of one image of 320 x 320, a multiplication and addition as one; None if unknown.
    """

    name: str
    model: ConfigDict
    parameters: int
    flops: int | None


def candidates(student: str, teacher: str, count: int) -> list[Candidate]:
    """Student, assistants of widths in geometric steps, and teacher.

    Args:
        student, teacher: configs of the same family, which differ in widths alone.
        count: of assistants.

    Raises:
        FileNotFoundError: a config is not there.
        SetupError: the pair differs in more than widths, or leaves no room for as many.
    """
    small = read_model_config(student, 'student')
    large = read_model_config(teacher, 'teacher')
    models = {'student': small}
    for index in range(1, count + 1):
        models[f'assistant_{index}'] = between(small, large, index / (count + 1))
    models['teacher'] = large
    found = []
    for name, model in models.items():
        with isolated_rng():
            built = build_model(without_downloads(model)).eval()
        with DefaultScope.overwrite_default_scope(model.get('_scope_')), torch.no_grad():
            flops = count_flops(built, inputs=torch.zeros(1, 3, *SIZE))
        found.append(Candidate(name, model, sum(p.numel() for p in built.parameters()), flops))
    sizes = [each.parameters for each in found]
    if sizes != sorted(set(sizes)):
        raise SetupError(
            f'Between {student} and {teacher} there is no room for {count} assistants whose widths '
            f'are multiples of {GROUPS}: they would have {", ".join(map(str, sizes))} weights.'
        )
    return found


def between(student: ConfigDict, teacher: ConfigDict, share: float) -> ConfigDict:
    """The model between two that differ in widths alone.

    Each width is w_s * (w_t / w_s)^share, rounded so that widths which grow alike stay in
    proportion, and the smallest of them is a multiple of :data:`GROUPS`.

    Args:
        student, teacher: configs of models.
        share: 0 for the student, 1 for the teacher.

    Raises:
        SetupError: they differ in more than widths, or in none.
    """
    pairs = dict(_widths(student, teacher, ''))
    if not pairs:
        raise SetupError('Student and teacher have the same widths: there is nothing between them.')
    smallest: dict[float, int] = {}
    for small, large in pairs.values():
        ratio = large / small
        smallest[ratio] = min(small, smallest.get(ratio, small))
    factors = {}
    for ratio, base in smallest.items():
        width = GROUPS * max(1, round(base * ratio**share / GROUPS))
        factors[ratio] = width / base
    model = ConfigDict(copy.deepcopy(student.to_dict()))
    for key, (small, large) in pairs.items():
        *path, last = key.split('.')
        place: Any = model
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place[int(last) if isinstance(place, list) else last] = round(
            small * factors[large / small]
        )
    return model


def _widths(student: Any, teacher: Any, where: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The numbers that differ between two configs, by their dotted keys."""
    if isinstance(student, Mapping) and isinstance(teacher, Mapping):
        for key in {**student, **teacher}:
            if key not in NOT_WIDTHS:
                name = f'{where}.{key}' if where else key
                yield from _widths(student.get(key), teacher.get(key), name)
    elif (
        isinstance(student, list | tuple)
        and isinstance(teacher, list | tuple)
        and (len(student) == len(teacher))
    ):
        for index, (small, large) in enumerate(zip(student, teacher, strict=True)):
            yield from _widths(small, large, f'{where}.{index}')
    elif student != teacher:
        numbers = isinstance(student, int) and isinstance(teacher, int)
        if not numbers or min(student, teacher) < 1 or where.endswith('depth'):
            raise SetupError(
                f'Student and teacher differ in more than widths ({where}: {student!r} and '
                f'{teacher!r}). Take a smaller sibling of the teacher as assistant, such as R34 '
                'between R18 and R50, and name it in a chain file.'
            )
        yield where, (student, teacher)


def write_chain(student: str, teacher: str, found: Sequence[Candidate], folder: Path) -> Path:
    """Write the configs of assistants, and a chain that trains all models alone for a tenth.

    Args:
        student, teacher: configs of whole trainings.
        found: see :func:`candidates`.
        folder: where to.

    Returns:
        the chain file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = read_config_file(student, 'student')
    steps = max(1, math.ceil(length(whole)[0] / SHARE))
    stages: dict[str, Any] = {}
    for each in found:
        file = dict(student=student, teacher=teacher).get(each.name)
        if file is None:
            config = Config(whole.to_dict())
            model = ConfigDict(each.model.to_dict())
            model.pop('_scope_', None)
            config.model = model
            file = str(folder / f'{each.name}.py')
            Path(file).write_text(config.pretty_text, encoding='utf-8')
        # all by the student's schedule, data and evaluation
        stages[each.name] = dict(config=student, student=file, steps=steps)
    text = pformat(stages, sort_dicts=False)
    chain = folder / 'assistants.py'
    chain.write_text(
        '# Written by kd-dense chain --suggest-assistants: each model alone, for a tenth of the '
        f'schedule\nfolder = {str(folder / "alone")!r}\nstages = {text}\n',
        encoding='utf-8',
    )
    return chain


def ranking(rows: Mapping[str, Sequence[Row]], metric: Any) -> list[tuple[str, float, float]]:
    """The assistants, the best first: those whose metric alone is nearest to the middle.

    Args:
        rows: of the trainings alone, by stage.
        metric: that counts.

    Returns:
        name, points alone, and distance from the mean of student and teacher.
    """
    values = {}
    for name, found in rows.items():
        known = [value for row in found if (value := points(row, metric)) is not None]
        values[name] = sample(known).mean if known else math.nan
    middle = (values['student'] + values['teacher']) / 2
    named = [(n, v, abs(v - middle)) for n, v in values.items() if n.startswith('assistant')]
    return sorted(named, key=lambda each: each[2])
