"""Views: what a loss may look at in one model for one batch, one file per host family."""

from __future__ import annotations

from torch import nn

from ..errors import SetupError
from .base import Batch, HostInfo
from .dense import DenseView
from .heads import Assignment
from .one_stage import OneStageView
from .segmentation import SegmentationView
from .two_stage import RoITargets, TwoStageView
from .view import View, probe

VIEWS = (OneStageView, TwoStageView, SegmentationView)


def view_class(model: nn.Module) -> type[View]:
    """Find the view of a model's host family.

    Raises:
        ValueError: no view fits the model.
    """
    for view in VIEWS:
        if view.describes(model):
            return view
    heads = ', '.join(
        f'{name}: {type(getattr(model, name)).__name__}'
        for name in ('bbox_head', 'rpn_head', 'roi_head', 'decode_head')
        if hasattr(model, name)
    )
    raise SetupError(
        f'kd_dense has no view of a {type(model).__name__} ({heads or "no head"}). It can look '
        'into one-stage detectors of mmdet with an anchor head or an FCOS head (GFL, ATSS, '
        'RetinaNet, FCOS and their kin), into two-stage detectors with an RPNHead and one '
        'StandardRoIHead (Faster R-CNN, Mask R-CNN), not a cascade of them, and into segmentors of '
        'mmseg with one decode head (PSPNet, DeepLabV3+, SegFormer and their kin); choose such a '
        'model as teacher and student.'
    )


__all__ = [
    'VIEWS',
    'Assignment',
    'Batch',
    'DenseView',
    'HostInfo',
    'OneStageView',
    'RoITargets',
    'SegmentationView',
    'TwoStageView',
    'View',
    'probe',
    'view_class',
]
