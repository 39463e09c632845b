"""Teachers: whatever a loss looks at, one kind a file."""

from .base import Teacher
from .build import FROZEN, build_teachers, teacher_from
from .ensemble import Ensemble
from .frozen import FrozenTeacher
from .live import LiveTeacher
from .predicting import EnsembleModel

__all__ = [
    'FROZEN',
    'Ensemble',
    'EnsembleModel',
    'FrozenTeacher',
    'LiveTeacher',
    'Teacher',
    'build_teachers',
    'teacher_from',
]
