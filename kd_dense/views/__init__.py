"""Views: what a loss may look at in one model for one batch, one file per host family."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from ..errors import SetupError
from ..hosts.heads import Assignment
from ..registry import VIEWS
from .batch import Batch
from .dense import DenseView
from .detections import Detections, PredictingView
from .detr import DetrView
from .features import FeatureView  # the registry holds the general views before the special ones
from .info import HostInfo
from .mask_transformer import MaskTransformerView, semantic_logits
from .one_stage import OneStageView
from .readable import Read, Readable, known_reads, readable
from .segmentation import SegmentationView
from .two_stage import Masked, RoITargets, TwoStageView
from .view import BACKBONE, MEMORY, NotAnnotated, View, probe

_described: WeakKeyDictionary[nn.Module, HostInfo] = WeakKeyDictionary()


def view_class(model: nn.Module) -> type[View]:
    """Find the view of a model's host family.

    Raises:
        SetupError: no view fits the model.
    """
    for view in reversed(VIEWS.module_dict.values()):
        if view.fits(model):
            return view
    raise SetupError(
        f'kd_dense has no view of a {type(model).__name__}: it has no `backbone` and '
        '`extract_feat`, as the detectors of mmdet and the segmentors of mmseg have. Choose such a '
        'model as teacher and student, or register a view of it (docs/add_a_view.md).'
    )


def host_info(model: nn.Module) -> HostInfo:
    """What two models may have to agree in, read off a model once.

    Raises:
        SetupError: no view fits the model.
    """
    if model not in _described:
        _described[model] = view_class(model).describe(model)
    return _described[model]


def stage_channels(model: nn.Module, stage: int | str, read: str = 'features') -> int:
    """Channels of the map of a stage, found by looking at one small black picture.

    Args:
        model: a host.
        stage: index of a feature map, or a stage's name.
        read: the property of the view that the stage is found in.
    """
    return probe(model, view_class(model), reads=(read,)).stage(stage).shape[1]


def level_channels(model: nn.Module) -> list[int]:
    """Channels of each feature level, found by looking at one small black picture."""
    return [level.shape[1] for level in probe(model, view_class(model)).features]


__all__ = [
    'BACKBONE',
    'MEMORY',
    'VIEWS',
    'Assignment',
    'Batch',
    'DenseView',
    'Detections',
    'DetrView',
    'FeatureView',
    'HostInfo',
    'MaskTransformerView',
    'Masked',
    'NotAnnotated',
    'OneStageView',
    'PredictingView',
    'Read',
    'Readable',
    'RoITargets',
    'SegmentationView',
    'TwoStageView',
    'View',
    'host_info',
    'known_reads',
    'level_channels',
    'probe',
    'readable',
    'semantic_logits',
    'stage_channels',
    'view_class',
]
