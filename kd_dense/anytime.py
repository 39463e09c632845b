"""Exits at run time: stop at the first that is sure enough, and what that brings for its time.

An exit is a peer that shares the student's trunk ("be your own teacher", Zhang et al., ICCV 2019,
arXiv 1905.08094); the student is the last. Each begins where the one before has stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from .distiller import Distiller
from .errors import SetupError
from .evaluation import evaluate, largest
from .hosts import isolated_rng
from .hosts.checkpoints import STUDENT
from .measure import all_seconds, medians
from .views import Batch, DenseView, SegmentationView, View, view_class

CANDIDATES = 100  # predictions of a detector that tell how sure it is
Data = dict[str, Any]


class Image(NamedTuple):
    """One image as all exits see it; lists have one entry for each exit.

    Attributes:
        sure: how sure each is, 0 to 1.
        losses: own losses; empty where the image is not annotated.
        samples: what each predicts.
        data: as the data loader gave it.
    """

    sure: list[float]
    losses: list[float]
    samples: list[BaseDataElement]
    data: Data


class Point(NamedTuple):
    """What a way of choosing exits comes to.

    Attributes:
        shares: of the images that leave at each exit.
        ms: mean milliseconds of an image.
        metric: of the validation set, in percent.
    """

    shares: tuple[float, ...]
    ms: float
    metric: float


def exits_of(distiller: Distiller, names: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The exits of a distiller by name, the student last.

    Args:
        distiller: with peers.
        names: of peers in the order in which they are asked; those that share parts by default.

    Raises:
        SetupError: there is none, or one that shares nothing.
    """
    chosen = list(names) or [peer.name for peer in distiller.peers.all() if peer.shared()]
    for name in chosen:
        if name not in distiller.peers or not distiller.peers[name].shared():
            raise SetupError(
                f'{name!r} is no peer that shares parts with the student: exits are, with '
                '`shares=` (configs/digits/exits_gfl_r18-quarter_digits.py).'
            )
    if not chosen:
        raise SetupError('There are no exits: no peer shares parts with the student (`shares=`).')
    return {name: distiller.live[name].model for name in (*chosen, STUDENT)}


def sureness(view: View) -> float:
    """How sure a model is of one image, 0 to 1.

    Of a segmentor the mean over the pixels of its largest probability; of a detector the mean of
    max(s, 1 - s) over its best 100 candidates, which is defined without detections too.

    Raises:
        SetupError: a model of another kind.
    """
    if isinstance(view, SegmentationView):
        return float(view.seg_logits.float().softmax(dim=1).amax(dim=1).mean())
    if isinstance(view, DenseView):
        logits = view.flat_cls_logits
        scores = logits.sigmoid() if view.activation == 'sigmoid' else logits.softmax(-1)[..., :-1]
        best = scores.amax(dim=-1).flatten().topk(min(CANDIDATES, scores.shape[1])).values
        return float(torch.maximum(best, 1 - best).mean())
    raise SetupError(f'How sure a {type(view.model).__name__} is, is not known.')


@torch.no_grad()
def look(exits: Mapping[str, Any], batches: Iterable[Data]) -> list[Image]:
    """What each exit makes of images, one a batch.

    Args:
        exits: of :func:`exits_of`, in evaluation.
        batches: as a data loader gives them, with one image each.
    """
    found = []
    for data in batches:
        sure, losses, samples = [], [], []
        for model in exits.values():
            ready = model.data_preprocessor(copy.deepcopy(data), False)
            inputs, annotated = ready['inputs'], ready['data_samples']
            view = view_class(model)(model, Batch(inputs, annotated))
            with view.recording():  # how sure it is, is known of the same pass
                losses += own_loss(model, inputs, annotated)
            sure.append(sureness(view))
            samples.append(model.test_step(copy.deepcopy(data))[0])
        found.append(Image(sure, losses, samples, data))
    return found


def own_loss(model: Any, inputs: Tensor, samples: Sequence[Any]) -> list[float]:
    """A model's own loss of one image, in evaluation; empty where it is not annotated."""
    samples = [copy.deepcopy(sample) for sample in samples]
    for sample in samples:
        if 'gt_instances' in sample and 'bboxes' in sample.gt_instances:
            # annotations for evaluation are of the image as it was before it was resized
            boxes = get_box_tensor(sample.gt_instances.bboxes)
            factors = sample.metainfo.get('scale_factor', (1.0, 1.0))
            sample.gt_instances.bboxes = boxes * boxes.new_tensor(factors).repeat(2)
        elif 'gt_sem_seg' in sample:
            labels = sample.gt_sem_seg.data[None].float()
            sized = F.interpolate(labels, inputs.shape[-2:], mode='nearest-exact')
            sample.gt_sem_seg.data = sized[0].to(sample.gt_sem_seg.data.dtype)
        else:
            return []
    with isolated_rng(seed=0):
        total, _ = model.parse_losses(model.loss(inputs, samples))
    return [float(total)]


@torch.no_grad()
def milliseconds(
    distiller: Distiller, exits: Mapping[str, Any], data: Data, rounds: int
) -> list[float]:
    """Median milliseconds of an image that leaves at each exit, with all exits before it.

    Args:
        distiller: whose models they are.
        exits: of :func:`exits_of`, in evaluation.
        data: a batch of one image.
        rounds: how often each is timed.
    """
    names = list(exits)
    ready = exits[STUDENT].data_preprocessor(copy.deepcopy(data), False)
    samples = ready['data_samples']

    def until(last: int) -> Callable[[], None]:
        def run() -> None:
            with distiller.peers.sharing():
                for name in names[: last + 1]:
                    # the very same images, which is how parts that are shared run once
                    exits[name](ready['inputs'], copy.deepcopy(samples), mode='predict')

        return run

    runs = {name: until(index) for index, name in enumerate(names)}
    spent = medians(all_seconds(runs, rounds, ready['inputs'].is_cuda))
    return [1000 * spent[name] for name in names]


def leave_at(images: Sequence[Image], threshold: float) -> np.ndarray:
    """The exit of each image: the first that is at least so sure, else the last."""
    sure = np.array([image.sure for image in images])
    sure[:, -1] = np.inf
    return (sure >= threshold).argmax(axis=1)


def point(
    images: Sequence[Image],
    chosen: np.ndarray,
    ms: Sequence[float],
    metrics: Sequence[Mapping[str, Any]],
    dataset_meta: Mapping[str, Any],
) -> Point:
    """What a choice of exits comes to.

    Args:
        images: of :func:`look`.
        chosen: index of the exit of each.
        ms: of :func:`milliseconds`.
        metrics: configs of the validation's metrics.
        dataset_meta: of the data set.
    """
    predictions = (([i.samples[at]], i.data) for i, at in zip(images, chosen, strict=True))
    with redirect_stdout(StringIO()):  # COCO's tables, once for each point
        name, value = evaluate(predictions, metrics, dataset_meta)
    shares = np.bincount(chosen, minlength=len(ms)) / len(images)
    mean = float(shares @ np.array(ms))
    return Point(tuple(shares.tolist()), mean, value * 100 / largest(name))


def random_choice(chosen: np.ndarray, seed: int) -> np.ndarray:
    """The same numbers of images at each exit, which ones by chance: the control of a router."""
    return np.random.default_rng(seed).permutation(chosen)


def best_choice(images: Sequence[Image]) -> np.ndarray | None:
    """The exit with the lowest own loss of each image; None where they are not annotated."""
    if not all(image.losses for image in images):
        return None
    return np.array([image.losses for image in images]).argmin(axis=1)
