"""Teachers: whatever a loss looks at, one kind a file."""

from .base import Teacher
from .build import FROZEN, build_teachers, teacher_from
from .ema import EMATeacher
from .ensemble import Ensemble
from .features import FeatureTeacher
from .frozen import FrozenTeacher
from .fusing import WeightedBoxesFusion
from .gate import Gate
from .live import LiveTeacher
from .predicting import EnsembleModel
from .stored import StoredTeacher

__all__ = [
    'FROZEN',
    'EMATeacher',
    'Ensemble',
    'EnsembleModel',
    'FeatureTeacher',
    'FrozenTeacher',
    'Gate',
    'LiveTeacher',
    'StoredTeacher',
    'Teacher',
    'WeightedBoxesFusion',
    'build_teachers',
    'teacher_from',
]
