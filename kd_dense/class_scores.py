"""Which class a model scores highest: at each pixel, or at each annotated box.

AP ranks within a class and does not see a class that is scored too low everywhere; which class is
scored highest does. Shapes: K classes, M pixels of a segmentor or annotated boxes of a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .errors import SetupError
from .views import Batch, OneStageView, SegmentationView, host_info, view_class
from .views.info import BOXES

IOU, BOX_ACC = 'IoU', 'box_acc'  # what the metrics of segmentors and of detectors are called


class Scored(NamedTuple):
    """Class scores where the class is annotated.

    Attributes:
        logits: (M, K).
        labels: true classes, (M,).
    """

    logits: Tensor
    labels: Tensor


def metric_of(model: nn.Module) -> str:
    """What is measured of a model: ``'IoU'`` of a segmentor, ``'box_acc'`` of a detector.

    Raises:
        SetupError: neither is known of such a model.
    """
    view: Any = view_class(model)
    softmax = host_info(model).activation == 'softmax'
    if issubclass(view, SegmentationView) and softmax and hasattr(model, 'decode_head'):
        return IOU
    if issubclass(view, OneStageView) and BOXES in host_info(model).abilities:
        return BOX_ACC
    raise SetupError(
        f'Which class a {type(model).__name__} scores highest is known of segmentors with a '
        'softmax, and of one-stage detectors whose boxes can be decoded.'
    )


@torch.no_grad()
def scored(
    model: Any, data: dict[str, Any], outputs: Sequence[BaseDataElement] | None = None
) -> list[Scored]:
    """What a model scores at the annotated pixels or boxes of a batch.

    Of a segmentor the logits as it predicts with them, of all pixels but the ignored ones. Of a
    detector those of the prediction that overlaps each box most, before any threshold or NMS.

    Args:
        model: in evaluation mode.
        data: a batch as a data loader gives it.
        outputs: what a segmentor predicts of it, where that is known already.

    Returns:
        one for each image.

    Raises:
        SetupError: the model is of another kind, or the batch is not annotated.
    """
    if metric_of(model) == IOU:
        head = view_class(model).head_of(model)
        found = model.test_step(data) if outputs is None else outputs
        return [_at_pixels(sample, head.ignore_index) for sample in found]
    data = model.data_preprocessor(data, False)
    view: Any = view_class(model)(model, Batch(data['inputs'], data['data_samples']))
    return [_at_boxes(view, image) for image in range(len(data['inputs']))]


def _at_pixels(sample: Any, ignore_index: int) -> Scored:
    if 'gt_sem_seg' not in sample:
        raise SetupError('There are no labels in this data: its pipeline has no `LoadAnnotations`.')
    logits, labels = sample.seg_logits.data.flatten(1).T, sample.gt_sem_seg.data.flatten()
    known = (labels != ignore_index).to(logits.device)
    return Scored(logits[known], labels.to(logits.device)[known].long())


def _at_boxes(view: OneStageView, image: int) -> Scored:
    sample: Any = view.batch.samples[image]
    if 'gt_instances' not in sample or 'bboxes' not in sample.gt_instances:
        raise SetupError('There are no boxes in this data: its pipeline has no `LoadAnnotations`.')
    annotated, labels = get_box_tensor(sample.gt_instances.bboxes), sample.gt_instances.labels
    logits = view.flat_cls_logits[image, :, : view.num_classes]
    if not len(labels):
        return Scored(logits[:0], labels)
    # annotations for evaluation are of the image as it was before it was resized
    factors = logits.new_tensor(sample.metainfo.get('scale_factor', (1.0, 1.0))).repeat(2)
    overlaps = bbox_overlaps(view.decoded_boxes[image] / factors, annotated.float())
    best = overlaps.masked_fill(~view.valid[image, :, None], -1).argmax(dim=0)
    return Scored(logits[best], labels)


def confusion(found: Scored) -> Tensor:
    """How often a class is scored highest: of each true class (row) each class (column), (K, K)."""
    classes = found.logits.shape[1]
    pairs = found.labels * classes + found.logits.argmax(dim=1)
    return pairs.bincount(minlength=classes**2).view(classes, classes).cpu()


def by_class(counts: Tensor, metric: str) -> Tensor:
    """The metric of each class, in percent, (..., K); NaN of a class that does not occur.

    Args:
        counts: see :func:`confusion`, (..., K, K).
        metric: see :func:`metric_of`.
    """
    right, true = counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-1)
    return 100 * right / (true + counts.sum(dim=-2) - right if metric == IOU else true)


def overall(counts: Tensor, metric: str) -> Tensor:
    """Mean IoU, or the share of all boxes whose class is right, in percent, (...).

    Args:
        counts: see :func:`confusion`, (..., K, K).
        metric: see :func:`metric_of`.
    """
    if metric == IOU:
        return by_class(counts, metric).nanmean(dim=-1)
    return 100 * counts.diagonal(dim1=-2, dim2=-1).sum(dim=-1) / counts.sum(dim=(-2, -1))


def confusions_by_shift(found: Scored, label: int, shifts: Tensor) -> Tensor:
    """The confusion with each of several numbers added to the logit of one class.

    Args:
        found: of one model.
        label: index of the class.
        shifts: in logits, ascending, (S,).

    Returns:
        see :func:`confusion`, (S, K, K).
    """
    number, classes = len(shifts), found.logits.shape[1]
    others = found.logits.double()
    own = others[:, label].clone()
    others[:, label] = -torch.inf
    best, which = others.max(dim=1)
    # the first of the shifts that lifts the class above all others
    first = torch.searchsorted(shifts.to(best), best - own, right=True)
    entries = (first * classes + found.labels) * classes + which
    counts = entries.bincount(minlength=(number + 1) * classes**2).cpu()
    counts = counts.view(number + 1, classes, classes)
    lifted = counts.cumsum(dim=0)[:-1]
    result = counts.sum(dim=0) - lifted
    result[:, :, label] += lifted.sum(dim=-1)
    return result
