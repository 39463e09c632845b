"""kd_dense: knowledge distillation for MMDetection and MMSegmentation."""

from .stack import check_stack

check_stack()

from mmengine.config import utils as _mmengine_config_utils

from .autocast import AutocastOptimWrapper
from .backbones import PretrainedPackage, TimmBackbone
from .distiller import Distiller
from .live_optim import LiveOptimWrapperConstructor
from .losses import (
    BinaryDistillation,
    BoundedRegression,
    BoxIoUDistillation,
    ChannelWise,
    ClassWeightedSoftCrossEntropy,
    CrossHead,
    DecoupledTargets,
    DistillationLoss,
    FeatureImitation,
    FocalGlobal,
    Holistic,
    LocalizationDistillation,
    MaskDistillation,
    MaskedGeneration,
    MeritBased,
    PairWise,
    PearsonDistillation,
    PixelWise,
    QueryMatching,
    RelationDistillation,
    SharedQueries,
    SoftTargets,
    TemperedCrossEntropy,
)
from .losses.adversarial import AdversarialOptimWrapperConstructor
from .registry import (
    HOOKS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    TEACHERS,
    VIEWS,
    WEIGHT_INITIALIZERS,
)
from .teachers import EMATeacher, Ensemble, FeatureTeacher, FrozenTeacher, Gate, Teacher
from .version import __version__
from .views import View

# mmengine takes `mmseg::` names for a distribution called `mmsegmentation`, which the maintained
# release is not, and would pip-install the old one over it
_mmengine_config_utils.MODULE2PACKAGE['mmseg'] = 'mmseg'

__all__ = [
    'HOOKS',
    'MODELS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'TEACHERS',
    'VIEWS',
    'WEIGHT_INITIALIZERS',
    'AdversarialOptimWrapperConstructor',
    'AutocastOptimWrapper',
    'BinaryDistillation',
    'BoundedRegression',
    'BoxIoUDistillation',
    'ChannelWise',
    'ClassWeightedSoftCrossEntropy',
    'CrossHead',
    'DecoupledTargets',
    'DistillationLoss',
    'Distiller',
    'EMATeacher',
    'Ensemble',
    'FeatureImitation',
    'FeatureTeacher',
    'FocalGlobal',
    'FrozenTeacher',
    'Gate',
    'Holistic',
    'LiveOptimWrapperConstructor',
    'LocalizationDistillation',
    'MaskDistillation',
    'MaskedGeneration',
    'MeritBased',
    'PairWise',
    'PearsonDistillation',
    'PixelWise',
    'PretrainedPackage',
    'QueryMatching',
    'RelationDistillation',
    'SharedQueries',
    'SoftTargets',
    'Teacher',
    'TemperedCrossEntropy',
    'TimmBackbone',
    'View',
    '__version__',
]
