"""Views: what a loss may look at in one model for one batch, one file per host family."""

from __future__ import annotations

from torch import nn

from ..errors import SetupError
from .base import Batch, HostInfo
from .one_stage import Assignment, OneStageView

VIEWS = (OneStageView,)


def view_class(model: nn.Module) -> type[OneStageView]:
    """Find the view of a model's host family.

    Raises:
        ValueError: no view fits the model.
    """
    for view in VIEWS:
        if view.describes(model):
            return view
    head = type(getattr(model, 'bbox_head', None)).__name__
    raise SetupError(
        f'kd_dense has no view of a {type(model).__name__} (bbox_head: {head}). It can look into '
        'one-stage detectors of mmdet with an anchor head or an FCOS head (GFL, ATSS, RetinaNet, '
        'FCOS and their kin); choose such a model as teacher and student.'
    )


__all__ = ['VIEWS', 'Assignment', 'Batch', 'HostInfo', 'OneStageView', 'view_class']
