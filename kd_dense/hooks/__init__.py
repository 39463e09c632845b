"""Hooks for distilling: student checkpoints, weight schedules, loss balance, metrics, pictures."""

from .around_step import AroundStepHook
from .checkpoint_guard import CheckpointGuardHook
from .class_metrics import ClassMetricsHook
from .loss_balance import LossBalanceHook
from .pictures import DistillationPictureHook
from .random_state import RandomStateHook
from .student_checkpoint import StudentCheckpointHook, student_checkpoint
from .weight_schedule import WeightScheduleHook, factor_at

__all__ = [
    'AroundStepHook',
    'CheckpointGuardHook',
    'ClassMetricsHook',
    'DistillationPictureHook',
    'LossBalanceHook',
    'RandomStateHook',
    'StudentCheckpointHook',
    'WeightScheduleHook',
    'factor_at',
    'student_checkpoint',
]
