"""Distillation losses, one method a file: a typed function of tensors, then a registered loss."""

from .base import DistillationLoss, global_divisor
from .imitation import FeatureImitation, masked_squared_error
from .localization import LocalizationDistillation, edge_kl
from .soft_targets import SoftTargets, sigmoid_kl, softmax_kl

__all__ = [
    'DistillationLoss',
    'FeatureImitation',
    'LocalizationDistillation',
    'SoftTargets',
    'edge_kl',
    'global_divisor',
    'masked_squared_error',
    'sigmoid_kl',
    'softmax_kl',
]
