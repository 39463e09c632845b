"""The models and losses of a config, built one by one where they do not build together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from ..distiller import Distiller
from ..hosts import build_model, isolated_rng, read_model_config
from ..losses.base import DistillationLoss
from ..registry import MODELS
from ..teachers import Teacher, teacher_from
from ..views import HostInfo, host_info
from .report import Section


@dataclass
class Parts:
    """What could be built of a distillation; None for what could not.

    Args:
        student: its model.
        teacher: the teacher, not loaded.
        teacher_model: its model, where it has one to examine.
        losses: by name.
        distiller: all of it.
        error: why that could not be built.
    """

    student: nn.Module | None = None
    teacher: Teacher | None = None
    teacher_model: nn.Module | None = None
    losses: dict[str, DistillationLoss] = field(default_factory=dict)
    distiller: Distiller | None = None
    error: Exception | None = None

    def models(self) -> dict[str, nn.Module | None]:
        """The models of student and teacher."""
        return dict(student=self.student, teacher=self.teacher_model)


@dataclass
class Hosts:
    """What student and teacher tell about themselves; None for what no view fits."""

    student: HostInfo | None = None
    teacher: HostInfo | None = None


def parts_of(distiller: Distiller, section: Section) -> Parts:
    """The parts of a distiller that was built."""
    teacher = distiller.teacher
    parts = Parts(distiller.student, teacher, None, dict(distiller.losses.items()), distiller)
    with section.collect_errors('teacher'):
        parts.teacher_model = teacher.model
    return parts


def build_parts(config: Config, section: Section) -> Parts:
    """Build a distillation, or of one that cannot be built the parts that can.

    Args:
        config: of the training.
        section: where to tell about them.
    """
    model = ConfigDict(config.model.to_dict())
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config.data_preprocessor)
    try:
        with isolated_rng(seed=0):
            parts = parts_of(MODELS.build(model), section)
    except Exception as error:  # told of the part that it comes from
        parts = _build_apart(model, section)
        parts.error = error
    for role, built in (('student', parts.student), ('teacher', parts.teacher_model)):
        if built is not None:
            section.ok(role, _described(built), parameters=_count(built))
    if parts.losses:
        section.ok('losses', ', '.join(parts.losses))
    return parts


def _build_apart(model: ConfigDict, section: Section) -> Parts:
    parts = Parts()
    with section.collect_errors('student'):
        config = read_model_config(model.student, 'student')
        if model.get('data_preprocessor') is not None:
            config.setdefault('data_preprocessor', model.data_preprocessor)
        parts.student = build_model(config)
    with section.collect_errors('teacher'):
        parts.teacher = teacher_from(model.teacher)
        parts.teacher_model = parts.teacher.model
    for name, config in model.losses.items():
        with section.collect_errors(f'losses.{name}'), isolated_rng(seed=0):
            parts.losses[name] = MODELS.build(dict(config))
    return parts


def describe(parts: Parts, section: Section) -> Hosts:
    """What student and teacher tell about themselves."""
    hosts = Hosts()
    for role, model in parts.models().items():
        if model is not None:
            with section.collect_errors(role):
                setattr(hosts, role, host_info(model))
    return hosts


def _described(model: nn.Module) -> str:
    backbone = type(getattr(model, 'backbone', None)).__name__
    return f'{type(model).__name__} with {backbone}, {_count(model) / 1e6:.2f} M parameters'


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def as_list(value: Any) -> list:
    """A list of what may be one, one thing, or nothing."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
