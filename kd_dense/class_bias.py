"""Shift the bias of one class in a student: of a class that it was taught without examples.

Hinton et al. ("Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 3) leave
the threes out of the transfer set: the student knows them from the teacher's soft targets, and
finds most of them once its bias of that class is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .class_scores import confusions_by_shift, metric_of, overall, scored
from .errors import SetupError
from .hosts.heads import class_bias
from .losses.maps import size_of
from .views import Batch, DenseView, SegmentationView, View, view_class

if TYPE_CHECKING:
    from .distiller import Distiller

LIMIT = 30.0  # logits: a shift beyond it has saturated every probability
GRID = torch.arange(-100, 101) / 10  # logits; the paper's 3.5 and -7.6 lie on it


def shift_class(model: nn.Module, label: int, shift: float) -> int:
    """Add a number to the bias of a class, in place.

    Args:
        model: a segmentor, or a detector whose class layer is known.
        label: index of the class.
        shift: in logits.

    Returns:
        how many entries of the bias were shifted: one, or one for each anchor of a position.

    Raises:
        SetupError: the model has no bias of classes that is known here.
    """
    bias, entries = class_bias(model, label)
    with torch.no_grad():
        bias[entries] += shift
    return len(entries)


def odds(view: View, label: int) -> Tensor:
    """The logit of a class against all else, at each valid pixel or position of a batch.

    Its sigmoid is the probability of the class: of a softmax it is the class's logit less the
    logsumexp of the others, so a shift of the class's bias is added to it as it is.

    Args:
        view: of a segmentor or one-stage detector, after a forward pass.
        label: index of the class.

    Returns:
        float32, one number for each valid pixel, or prediction.

    Raises:
        SetupError: the class scores of such a model are not known.
    """
    if isinstance(view, SegmentationView):
        logits, softmax = view.seg_logits.float(), True
        inside = view.batch.inside(size_of(logits), view.batch.images.shape[-1] / logits.shape[-1])
        rows = logits.movedim(1, -1)[inside]
    elif isinstance(view, DenseView):
        rows, softmax = view.flat_cls_logits.flatten(0, -2), view.activation == 'softmax'
    else:
        raise SetupError(f'The class scores of a {type(view.model).__name__} are not known.')
    own = rows[:, label]
    if not softmax:
        return own
    others = torch.cat([rows[:, :label], rows[:, label + 1 :]], dim=1)
    return own - others.logsumexp(dim=1)


def matching_shift(student: Sequence[Tensor], wanted: float) -> float:
    """The shift that brings the mean probability of a class to a wanted one.

    Args:
        student: see :func:`odds`, of all batches.
        wanted: mean probability, above 0 and below 1.

    Raises:
        SetupError: no shift does.
    """
    every = torch.cat([each.double() for each in student])
    low, high = -LIMIT, LIMIT
    if not every.add(low).sigmoid().mean() < wanted < every.add(high).sigmoid().mean():
        raise SetupError(
            f'No shift between {low:g} and {high:g} brings the mean probability of the class to '
            f'that of the teacher, {wanted:.3g}.'
        )
    for _ in range(60):  # the mean grows with the shift
        middle = (low + high) / 2
        if every.add(middle).sigmoid().mean() < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def teachers_share(
    distiller: Distiller, batches: Iterable[dict[str, Any]], label: int, images: int
) -> tuple[list[Tensor], float]:
    """What student and teacher make of a class on some images; no annotation is read.

    Args:
        distiller: with student and teacher loaded.
        batches: of the transfer set, as a data loader gives them.
        label: index of the class.
        images: how many to look at.

    Returns:
        the student's :func:`odds` of each batch, and the teacher's mean probability.
    """
    student, teacher = distiller.student.eval(), distiller.teacher
    ours, theirs, seen = [], [], 0
    with torch.no_grad():
        for data in batches:
            data = distiller.data_preprocessor(data, True)  # batched as in training
            batch = Batch(data['inputs'], data['data_samples'])
            view = view_class(student)(student, batch)
            ours.append(odds(view, label))
            theirs.append(odds(teacher.view(batch, view), label))
            seen += len(data['inputs'])
            if seen >= images:
                break
    return ours, float(torch.cat(theirs).double().sigmoid().mean())


def best_shift(
    model: nn.Module, batches: Iterable[dict[str, Any]], label: int, shifts: Tensor = GRID
) -> tuple[float, float, float]:
    """The shift with which a model does best on annotated images, of several.

    As in the paper, which looks at the test set for it: what is measured on the same images then
    is an upper bound. What counts is, as there, right classes over all classes: mean IoU of a
    segmentor; the share of annotated boxes at which the true class is scored highest of a detector,
    whose AP does not depend on the shift. Of equally good shifts the smallest is taken.

    Args:
        model: in evaluation mode.
        batches: annotated, as a data loader gives them; each is looked at once for all shifts.
        label: index of the class.
        shifts: in logits, ascending.

    Returns:
        the shift, and the metric without it and with it, in percent.

    Raises:
        SetupError: there is no such metric of the model, or nothing is annotated.
    """
    metric = metric_of(model)
    counts = sum(
        confusions_by_shift(each, label, shifts) for data in batches for each in scored(model, data)
    )
    if not isinstance(counts, Tensor) or not counts.any():
        raise SetupError('Nothing is annotated in the images that the shift is to be chosen by.')
    values = overall(counts, metric)
    best = min((shifts[values == values.max()]).tolist(), key=abs)
    return best, float(values[shifts == 0]), float(values.max())
