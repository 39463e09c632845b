"""What is known of detection transformers: mmdet's DETR and those built on it.

All of them run ``pre_transformer``, ``forward_encoder``, ``pre_decoder``, ``forward_decoder`` and
the head, one after the other. Shapes: N images, Q queries, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.detectors import DINO
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.models.task_modules.assigners import BBoxL1Cost, HungarianAssigner, IoUCost
from mmengine.structures import InstanceData
from torch import Tensor, nn

# hosts that ask by text as well (Grounding DINO) run the parts otherwise
FLOWS = (DetectionTransformer.forward_transformer, DINO.forward_transformer)
ASKED_BY = ('query', 'query_pos', 'reference_points')  # what a decoder takes of its queries
MASK = 'dn_mask'  # which queries see each other, where denoising ones are among them
BOX_COSTS = (BBoxL1Cost, IoUCost)


def is_detr(model: nn.Module) -> bool:
    """Whether a model is a detection transformer whose parts are known here."""
    return (
        isinstance(model, DetectionTransformer)
        and type(model).forward_transformer in FLOWS
        and isinstance(model.bbox_head, DETRHead)
    )


def query_form(model: Any) -> str:
    """What a host's decoder is asked by, in words: decoders that agree can be asked the same."""
    widths = dict(
        query=model.embed_dims,
        query_pos=getattr(model, 'query_dim', model.embed_dims),  # a box in DAB-DETR
        reference_points=4 if getattr(model, 'as_two_stage', False) else 2,
    )
    taken = signature(type(model).forward_decoder).parameters
    return ', '.join(f'{name} ({widths[name]})' for name in ASKED_BY if name in taken)


def queries_of(inputs: Mapping[str, Any], added: tuple[int, int] = (0, 0)) -> dict[str, Tensor]:
    """What a decoder's inputs say of each query, (N, Q, ...), by name.

    Args:
        inputs: keyword arguments of ``forward_decoder``.
        added: how many queries, before and behind the others, only training has.
    """
    return {name: without(inputs[name], added) for name in ASKED_BY if name in inputs}


def without(each: Tensor, added: tuple[int, int], dim: int = 1) -> Tensor:
    """What is said of each query, for those that predicting has too.

    Args:
        each: (..., Q, ...).
        added: see :func:`queries_of`.
        dim: along which the queries lie.
    """
    before, behind = added
    return each.narrow(dim, before, each.shape[dim] - before - behind)


def added_queries(head_inputs: Mapping[str, Any]) -> tuple[int, int]:
    """How many queries only training has: denoising ones before the others, dense ones behind.

    Args:
        head_inputs: what ``pre_decoder`` returns for the head.
    """
    told = head_inputs.get('dn_meta') or {}
    return int(told.get('num_denoising_queries', 0)), int(told.get('num_dense_queries', 0))


@contextmanager
def asked_alone(model: Any, queries: int = 0) -> Iterator[None]:
    """While inside, the decoder and the head are asked by a list of queries and nothing besides.

    Some hosts add queries in training, and their detector, decoder and head tell them apart again.
    Those three act as in evaluation; their layers, and with them the dropout, stay as they are.

    Args:
        model: a detection transformer; left as it was.
        queries: Q, for a decoder that is asked.
    """
    training = [each for each in (model, model.decoder, model.bbox_head) if each.training]
    notes = getattr(model, 'cache_dict', {})  # what DDQ's modules tell each other
    before = dict(notes)
    for each in training:
        each.training = False
    if notes:
        notes['dis_query_info'] = [0, queries]
    try:
        yield
    finally:
        for each in training:
            each.training = True
        if notes:
            notes.clear()
            notes.update(before)


def as_type(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Arguments with all tensors of numbers with a fraction in one type."""
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def class_activation(head: Any) -> str:
    """How a head's class logits become probabilities: ``'sigmoid'`` or ``'softmax'``."""
    return 'sigmoid' if head.loss_cls.use_sigmoid else 'softmax'


def class_scores(logits: Tensor, activation: str) -> Tensor:
    """Probabilities of the classes, (..., K), of logits (..., K) or (..., K + 1)."""
    return logits.sigmoid() if activation == 'sigmoid' else logits.softmax(dim=-1)[..., :-1]


def knows_costs(head: nn.Module) -> bool:
    """Whether :func:`match_costs` knows what a head's own assigner matches by."""
    return isinstance(getattr(head, 'assigner', None), HungarianAssigner)


def match_costs(
    head: Any, logits: Tensor, boxes: Tensor, scores: Tensor, wanted: Tensor, size: tuple[int, int]
) -> Tensor:
    """What it costs a head's own assigner to match each query with each of some objects.

    The cost of a class is taken of each class, weighted by the object's scores: for an object that
    has one class for certain this is the assigner's own cost.

    Args:
        head: whose assigner is known.
        logits: of the queries, as the head returns them, (Q, K) or (Q, K + 1).
        boxes: of the queries, xyxy in pixels, (Q, 4).
        scores: probabilities of the objects' classes, (B, K).
        wanted: the objects' boxes, xyxy in pixels, (B, 4).
        size: (height, width) of the image.

    Returns:
        (Q, B).
    """
    found = InstanceData(scores=logits, bboxes=boxes)
    of_classes = InstanceData(labels=torch.arange(scores.shape[1], device=scores.device))
    of_boxes = InstanceData(bboxes=wanted)
    total = boxes.new_zeros(len(boxes), len(wanted))
    for cost in head.assigner.match_costs:
        if isinstance(cost, BOX_COSTS):
            total = total + cost(found, of_boxes, img_meta=dict(img_shape=size))
        else:
            total = total + cost(found, of_classes) @ scores.T
    return total
