"""Distillation losses, one method a file: a typed function of tensors, then a registered loss."""

from .adversarial import Holistic
from .base import DistillationLoss, global_divisor
from .binary import (
    BinaryDistillation,
    BoxIoUDistillation,
    binary_distillation,
    box_disagreement,
)
from .bounded_regression import BoundedRegression, bounded_squared_error
from .channel_wise import ChannelWise, channel_kl
from .cross_head import CrossHead
from .decoupled import DecoupledTargets, decoupled_kl
from .focal_global import FocalGlobal, attention_maps, foreground_weights, with_context
from .functional import sigmoid_kl, softmax_kl, standardized
from .imitation import FeatureImitation, masked_absolute_error, masked_squared_error
from .localization import LocalizationDistillation, edge_kl
from .mask import MaskDistillation, mask_kl
from .masked_generation import MaskedGeneration, generation_block, random_keep
from .merit import MeritBased, binary_merit, merit_mixture
from .pair_wise import PairWise, affinity, pool_nodes
from .pearson import PearsonDistillation, shared_levels, standardized_squared_error
from .pixel_wise import PixelWise, pixel_cross_entropy, pixel_kl
from .queries import box_differences, class_divergence
from .query_matching import QueryMatching, matched
from .relation import RelationDistillation, correlation
from .shared_queries import SharedQueries
from .soft_cross_entropy import (
    ClassWeightedSoftCrossEntropy,
    weighted_soft_binary_cross_entropy,
    weighted_soft_cross_entropy,
)
from .soft_targets import SoftTargets
from .targets import confidence_weighted, permuted_logits
from .tempered import TemperedCrossEntropy

__all__ = [
    'BinaryDistillation',
    'BoundedRegression',
    'BoxIoUDistillation',
    'ChannelWise',
    'ClassWeightedSoftCrossEntropy',
    'CrossHead',
    'DecoupledTargets',
    'DistillationLoss',
    'FeatureImitation',
    'FocalGlobal',
    'Holistic',
    'LocalizationDistillation',
    'MaskDistillation',
    'MaskedGeneration',
    'MeritBased',
    'PairWise',
    'PearsonDistillation',
    'PixelWise',
    'QueryMatching',
    'RelationDistillation',
    'SharedQueries',
    'SoftTargets',
    'TemperedCrossEntropy',
    'affinity',
    'attention_maps',
    'binary_distillation',
    'binary_merit',
    'bounded_squared_error',
    'box_differences',
    'box_disagreement',
    'channel_kl',
    'class_divergence',
    'confidence_weighted',
    'correlation',
    'decoupled_kl',
    'edge_kl',
    'foreground_weights',
    'generation_block',
    'global_divisor',
    'mask_kl',
    'masked_absolute_error',
    'masked_squared_error',
    'matched',
    'merit_mixture',
    'permuted_logits',
    'pixel_cross_entropy',
    'pixel_kl',
    'pool_nodes',
    'random_keep',
    'shared_levels',
    'sigmoid_kl',
    'softmax_kl',
    'standardized',
    'standardized_squared_error',
    'weighted_soft_binary_cross_entropy',
    'weighted_soft_cross_entropy',
    'with_context',
]
