"""Views: what a loss may look at in one model for one batch, one file per host family."""

from __future__ import annotations

from torch import nn

from ..errors import SetupError
from .base import Batch, HostInfo
from .dense import DenseView
from .features import FeatureView
from .heads import Assignment
from .one_stage import OneStageView
from .segmentation import SegmentationView
from .two_stage import RoITargets, TwoStageView
from .view import View, probe

VIEWS = (OneStageView, TwoStageView, SegmentationView, FeatureView)


def view_class(model: nn.Module) -> type[View]:
    """Find the view of a model's host family.

    Raises:
        ValueError: no view fits the model.
    """
    for view in VIEWS:
        if view.describes(model):
            return view
    raise SetupError(
        f'kd_dense has no view of a {type(model).__name__}: it has no `backbone` and '
        '`extract_feat`, as the detectors of mmdet and the segmentors of mmseg have. Choose such a '
        'model as teacher and student.'
    )


__all__ = [
    'VIEWS',
    'Assignment',
    'Batch',
    'DenseView',
    'FeatureView',
    'HostInfo',
    'OneStageView',
    'RoITargets',
    'SegmentationView',
    'TwoStageView',
    'View',
    'probe',
    'view_class',
]
