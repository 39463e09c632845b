"""Hooks for distilling: student checkpoints, weight schedules, losses looked at, pictures."""

from .around_step import AroundStepHook
from .checkpoint_guard import CheckpointGuardHook
from .loss_balance import LossBalanceHook
from .pictures import DistillationPictureHook
from .random_state import RandomStateHook
from .student_checkpoint import StudentCheckpointHook, student_checkpoint
from .validation_loss import ValidationLossHook
from .weight_schedule import WeightScheduleHook, factor_at

__all__ = [
    'AroundStepHook',
    'CheckpointGuardHook',
    'DistillationPictureHook',
    'LossBalanceHook',
    'RandomStateHook',
    'StudentCheckpointHook',
    'ValidationLossHook',
    'WeightScheduleHook',
    'factor_at',
    'student_checkpoint',
]
