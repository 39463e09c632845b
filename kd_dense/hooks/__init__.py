"""Hooks for distilling: checkpoints, weight schedules, losses and metrics looked at, pictures."""

from .around_step import AroundStepHook
from .checkpoint_guard import CheckpointGuardHook
from .class_metrics import ClassMetricsHook
from .loss_balance import LossBalanceHook
from .pictures import DistillationPictureHook
from .random_state import RandomStateHook
from .student_checkpoint import StudentCheckpointHook, student_checkpoint
from .validation_loss import ValidationLossHook
from .weight_schedule import WeightScheduleHook, factor_at

__all__ = [
    'AroundStepHook',
    'CheckpointGuardHook',
    'ClassMetricsHook',
    'DistillationPictureHook',
    'LossBalanceHook',
    'RandomStateHook',
    'StudentCheckpointHook',
    'ValidationLossHook',
    'WeightScheduleHook',
    'factor_at',
    'student_checkpoint',
]
