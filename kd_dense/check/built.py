"""The models and losses of a config, built one by one where they do not build together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from ..distiller import Distiller
from ..hosts import build_model, isolated_rng, read_model_config
from ..hosts.checkpoints import STUDENT
from ..hosts.configs import teachers_of
from ..losses.base import DistillationLoss
from ..losses.build import build_losses
from ..pair import Difference, differences
from ..registry import MODELS
from ..teachers import Teacher, teacher_from
from ..views import HostInfo, host_info
from .findings import Section


@dataclass
class Built:
    """What could be built of a distillation; what could not is None or left out.

    Args:
        student: its model.
        teachers: by name, not loaded.
        losses: by name.
        distiller: all of it.
        error: why that could not be built.
        models: of the student and of the teachers that have one to examine, by their names.
        infos: what student and teachers tell of themselves, by name.
        peers: names of the students that train beside the student.
    """

    student: nn.Module | None = None
    teachers: dict[str, Teacher] = field(default_factory=dict)
    losses: dict[str, DistillationLoss] = field(default_factory=dict)
    distiller: Distiller | None = None
    error: Exception | None = None
    models: dict[str, nn.Module] = field(default_factory=dict)
    infos: dict[str, HostInfo] = field(default_factory=dict)
    peers: tuple[str, ...] = ()

    def losses_of(self, teacher: str) -> dict[str, DistillationLoss]:
        """The losses by which the student learns from one teacher, by name."""
        pair = (STUDENT, teacher)
        found = self.losses.items()
        return {n: loss for n, loss in found if (loss.student_name, loss.teacher_name) == pair}

    def differences(self, teacher: str) -> list[Difference]:
        """In what a teacher and the student differ that its losses mind; none where unknown."""
        if not {STUDENT, teacher} <= self.infos.keys():
            return []
        asked, losses = self.teachers[teacher], self.losses_of(teacher)
        alike = asked.same_classes, asked.maps_classes
        return differences(self.student, self.infos[teacher], losses, *alike)

    def item(self, text: str, teacher: str) -> str:
        """What a line about one teacher is called: where there are several, with its name."""
        return text if len(self.teachers) == 1 else f'{teacher}: {text}'


def of_distiller(distiller: Distiller, section: Section) -> Built:
    """The parts of a distiller that was built."""
    teachers, losses = dict(distiller.teachers), dict(distiller.losses.items())
    built = _described(Built(distiller.student, teachers, losses, distiller), section)
    for name in distiller.peers:
        built.peers += (name,)
        built.models[name] = distiller.live[name].model
        built.infos[name] = distiller.live[name].info
    return built


def build(config: Config, section: Section) -> Built:
    """Build a distillation, or of one that cannot be built the parts that can."""
    model = ConfigDict(config.model.to_dict())
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config.data_preprocessor)
    try:
        with isolated_rng(seed=0):
            built = of_distiller(MODELS.build(model), section)
    except Exception as error:  # told of the part that it comes from
        built = _build_apart(model, section)
        built.error = error
    for role, each in built.models.items():
        backbone = type(getattr(each, 'backbone', None)).__name__
        count = sum(p.numel() for p in each.parameters())
        text = f'{type(each).__name__} with {backbone}, {count / 1e6:.2f} M parameters'
        section.tell(role, text, parameters=count)
    if built.losses:
        section.tell('losses', ', '.join(built.losses))
    return built


def _build_apart(model: ConfigDict, section: Section) -> Built:
    built = Built()
    with section.collect_errors(STUDENT):
        config = read_model_config(model.student, STUDENT)
        if model.get('data_preprocessor') is not None:
            config.setdefault('data_preprocessor', model.data_preprocessor)
        built.student = build_model(config)
    teachers = teachers_of(model)
    for name, teacher in teachers.items():
        with section.collect_errors(name):
            built.teachers[name] = teacher_from(teacher, name)
    for name, loss in (model.get('losses') or {}).items():
        with section.collect_errors(f'losses.{name}'), isolated_rng(seed=0):
            built.losses |= build_losses({name: loss}, list(teachers)).items()
    return _described(built, section)


def _described(built: Built, section: Section) -> Built:
    """Add models, and what they tell of themselves."""
    if built.student is not None:
        built.models[STUDENT] = built.student
        with section.collect_errors(STUDENT):
            built.infos[STUDENT] = host_info(built.student)
    for name, teacher in built.teachers.items():
        with section.collect_errors(name):
            if (model := teacher.model) is None:
                section.skipped(name, f'a {type(teacher).__name__} has no model to examine')
            else:
                built.models[name] = model
            built.infos[name] = teacher.info
    return built


def as_list(value: Any) -> list:
    """A list of what may be one, one thing, or nothing."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
