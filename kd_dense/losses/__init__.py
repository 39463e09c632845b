"""Distillation losses, one method a file: a typed function of tensors, then a registered loss."""

from .base import DistillationLoss, global_divisor
from .bounded_regression import BoundedRegression, bounded_squared_error
from .imitation import FeatureImitation, masked_absolute_error, masked_squared_error
from .localization import LocalizationDistillation, edge_kl
from .soft_cross_entropy import (
    ClassWeightedSoftCrossEntropy,
    weighted_soft_binary_cross_entropy,
    weighted_soft_cross_entropy,
)
from .soft_targets import SoftTargets, sigmoid_kl, softmax_kl

__all__ = [
    'BoundedRegression',
    'ClassWeightedSoftCrossEntropy',
    'DistillationLoss',
    'FeatureImitation',
    'LocalizationDistillation',
    'SoftTargets',
    'bounded_squared_error',
    'edge_kl',
    'global_divisor',
    'masked_absolute_error',
    'masked_squared_error',
    'sigmoid_kl',
    'softmax_kl',
    'weighted_soft_binary_cross_entropy',
    'weighted_soft_cross_entropy',
]
