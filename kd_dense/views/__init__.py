"""Views: what a loss may look at in one model for one batch, one file per host family."""

from __future__ import annotations

from torch import nn

from ..errors import SetupError
from .base import Batch, HostInfo
from .dense import DenseView
from .heads import Assignment
from .one_stage import OneStageView
from .two_stage import RoITargets, TwoStageView

VIEWS = (OneStageView, TwoStageView)


def view_class(model: nn.Module) -> type[DenseView]:
    """Find the view of a model's host family.

    Raises:
        ValueError: no view fits the model.
    """
    for view in VIEWS:
        if view.describes(model):
            return view
    heads = ', '.join(
        f'{name}: {type(getattr(model, name)).__name__}'
        for name in ('bbox_head', 'rpn_head', 'roi_head')
        if hasattr(model, name)
    )
    raise SetupError(
        f'kd_dense has no view of a {type(model).__name__} ({heads or "no head"}). It can look '
        'into one-stage detectors of mmdet with an anchor head or an FCOS head (GFL, ATSS, '
        'RetinaNet, FCOS and their kin), and into two-stage detectors with an RPNHead and one '
        'StandardRoIHead (Faster R-CNN, Mask R-CNN), not a cascade of them; choose such a model '
        'as teacher and student.'
    )


__all__ = [
    'VIEWS',
    'Assignment',
    'Batch',
    'DenseView',
    'HostInfo',
    'OneStageView',
    'RoITargets',
    'TwoStageView',
    'view_class',
]
