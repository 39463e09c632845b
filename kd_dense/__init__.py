"""kd_dense: knowledge distillation for MMDetection and MMSegmentation."""

from mmengine.config import utils as _mmengine_config_utils

from .distiller import Distiller
from .losses import (
    BoundedRegression,
    ClassWeightedSoftCrossEntropy,
    DistillationLoss,
    FeatureImitation,
    LocalizationDistillation,
    SoftTargets,
)
from .registry import HOOKS, MODELS
from .teacher import Teacher
from .version import __version__

# mmengine takes `mmseg::` names for a distribution called `mmsegmentation`, which the maintained
# release is not, and would pip-install the old one over it
_mmengine_config_utils.MODULE2PACKAGE['mmseg'] = 'mmseg'

__all__ = [
    'HOOKS',
    'MODELS',
    'BoundedRegression',
    'ClassWeightedSoftCrossEntropy',
    'DistillationLoss',
    'Distiller',
    'FeatureImitation',
    'LocalizationDistillation',
    'SoftTargets',
    'Teacher',
    '__version__',
]
