"""Whether both models see images as they were made to, and what looks like a mistake."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..hosts.checkpoints import STUDENT
from ..hosts.configs import value_in_text
from ..teachers.renormalize import Preprocessing, Renormalize, preprocessing_of
from .built import Built
from .findings import WARNING, Section
from .weights import Checkpoints

# channel means of ImageNet for images of 0 to 255, red first
IMAGENET = (123.675, 116.28, 103.53)
PARTS = ('data_preprocessor', 'img_norm_cfg')  # of a config, beside its model
NEAR = 2.0  # Caffe's differ in the first decimal


class Statistics(NamedTuple):
    """How a model wants its images.

    Attributes:
        mean, std: of the channels, in the model's own order.
        rgb: whether that is red first.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rgb: bool

    def __str__(self) -> str:
        return f'mean {_numbers(self.mean)}, std {_numbers(self.std)}, {self.channels}'

    @property
    def channels(self) -> str:
        """Their order, in a word."""
        return 'RGB' if self.rgb else 'BGR'


def examine_preprocessing(built: Built, read: Checkpoints, section: Section) -> None:
    """Compare mean, std, channel order and padding of student and teachers.

    Their checkpoints may tell the config that they were trained with.
    """
    section.columns = (STUDENT, *(name for name in built.teachers if name in built.models))
    found: dict[str, Statistics] = {}
    rows: dict[str, tuple[str, ...]] = {}
    for role, model in built.models.items():
        if (does := preprocessing_of(model.data_preprocessor)) is not None:
            found[role] = seen = seen_by(does)
            padding = f'to a multiple of {does.pad_divisor}'
            rows[role] = (_numbers(seen.mean), _numbers(seen.std), seen.channels, padding)
    for index, item in enumerate(('mean', 'std', 'channels', 'padding')):
        section.tell(item, *(rows[r][index] if r in rows else '' for r in section.columns))
    for name in section.columns[1:] if built.student is not None else ():
        with section.collect_errors(item := built.item('together', name)):
            pair = (each.data_preprocessor for each in (built.student, built.models[name]))
            same = Renormalize(*pair).identical
            section.summary = 'the same' if same else 'the teacher gets the images its own way'
            section.tell(item, 'the same' if same else 'reconciled', identical=same)
    for role, seen in found.items():
        _suspicions(role, seen, read.get(role), section)


def seen_by(preprocessing: Preprocessing) -> Statistics:
    """What a preprocessor does; mmcv reads images with blue first."""
    mean, std = (
        tuple(round(v, 4) for v in values.tolist())
        for values in (preprocessing.mean, preprocessing.std)
    )
    return Statistics(mean, std, preprocessing.swaps_channels)


def _suspicions(
    role: str, seen: Statistics, checkpoint: Mapping[str, Any] | None, section: Section
) -> None:
    trained = trained_with(checkpoint) if checkpoint else None
    option = f'{"model.student" if role == STUDENT else "the teacher"}.data_preprocessor'
    if trained is not None and not _same(seen, trained):
        section.tell(
            role,
            mark=WARNING,
            problem=f'The {role} gets images otherwise than its checkpoint was trained: {seen}; '
            f'the config in the checkpoint says {trained}.',
            way_out=f'Set `{option}` as there, or name the config that the checkpoint was trained '
            'with.',
        )
    elif (text := _suspicious(seen)) and trained is None:
        problem = f'The {role} has {text}'
        section.tell(role, mark=WARNING, problem=problem, way_out=f'Look at `{option}`.')


def _suspicious(seen: Statistics) -> str:
    """What looks like a mistake, as the rest of a sentence."""
    for rgb, mean in ((True, IMAGENET), (False, IMAGENET[::-1])):
        if all(abs(a - b) < NEAR for a, b in zip(seen.mean, mean, strict=True)):
            if seen.rgb == rgb:
                return ''
            order, first = ('RGB', 'red') if rgb else ('BGR', 'blue')
            return (
                f'the mean of ImageNet in the order {order} ({first} first), and images in '
                f'{seen.channels}. mmcv reads BGR; with this mean it takes `bgr_to_rgb={rgb}` '
                f'(torchvision and most models: 123.675, 116.28, 103.53 and `bgr_to_rgb=True`; '
                'Caffe: 103.53, 116.28, 123.675 and `bgr_to_rgb=False`).'
            )
    if 0 < max(seen.mean) <= 1 and max(seen.std) <= 1:
        return (
            f'mean {_numbers(seen.mean)} and std {_numbers(seen.std)}, which are made for images '
            'of 0 to 1; mmcv reads 0 to 255.'
        )
    return ''


def _same(a: Statistics, b: Statistics) -> bool:
    values = zip((*a.mean, *a.std), (*b.mean, *b.std), strict=True)
    order = a.rgb == b.rgb or (len({*a.mean}) == len({*a.std}) == 1 and not any(a.mean))
    return order and all(abs(x - y) < 0.01 for x, y in values)


def trained_with(checkpoint: Mapping[str, Any]) -> Statistics | None:
    """What the config says that a checkpoint carries; None where it does not say.

    The config is text; it is read without running it.
    """
    meta = checkpoint.get('meta') or {}
    text = meta.get('cfg', meta.get('config'))
    if not isinstance(text, str):
        return None
    try:
        found = {
            name.id: value_in_text(statement.value)
            for statement in ast.parse(text).body
            if isinstance(statement, ast.Assign)
            for name in statement.targets
            if isinstance(name, ast.Name) and name.id in ('model', *PARTS)
        }
        model = found.get('model', {})
        student = model.get('student') or {}  # of a distiller
        candidates = [each.get('data_preprocessor') for each in (model, student)]
        candidates += [found.get(part) for part in PARTS]
    except (SyntaxError, ValueError, AttributeError):  # no plain config
        return None
    told = next((c for c in candidates if c and c.get('mean') is not None), None)
    if told is None or len(told['mean']) != 3:
        return None
    rgb = any(told.get(key, False) for key in ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb'))
    return Statistics(tuple(told['mean']), tuple(told['std']), rgb)


def _numbers(values: tuple[float, ...]) -> str:
    return ', '.join(f'{value:.6g}' for value in values)
