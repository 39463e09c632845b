"""What the heads of mmdet and mmseg tell about themselves, brought to one form.

Nothing else in kd_dense asks a head for its class or for whose ``get_targets`` it has; losses ask
the view for what a head can do (:mod:`kd_dense.views.info`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import (
    AnchorHead,
    ATSSHead,
    FCOSHead,
    GFLHead,
    MaskFormerHead,
    RetinaHead,
    RPNHead,
)
from mmdet.models.detectors import MaskFormer, SingleStageDetector, TwoStageDetector
from mmdet.models.detectors.single_stage_instance_seg import SingleStageInstanceSegmentor
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.samplers import PseudoSampler
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from torch import Tensor, nn

from ..errors import SetupError

CLASSIFIERS = ('bbox_head', 'decode_head', 'panoptic_head', 'mask_head')


class Assignment(NamedTuple):
    """The student's own label assignment, all levels side by side.

    Attributes:
        anchors: xyxy in pixels, (N, P, 4); None for heads that tell none. All 0 where the
            assigner was not shown them, in the padding.
        labels: (N, P), 0 to K-1 for positives, K for background.
        box_targets: as the head defines them, (N, P, 4); GFL-like heads: xyxy in pixels.
        label_weights: what each label counts in the class loss, (N, P), 0 where it was not
            sampled or is ignored; None for heads in which all count.
    """

    anchors: Tensor | None
    labels: Tensor
    box_targets: Tensor
    label_weights: Tensor | None = None


def flatten_levels(maps: tuple[Tensor, ...] | list[Tensor], channels: int) -> Tensor:
    """Put the maps of all levels side by side, one row per prediction.

    Args:
        maps: L maps of shape (N, A * channels, H, W).
        channels: values per prediction.

    Returns:
        (N, P, channels).
    """
    rows = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in maps]
    return torch.cat(rows, dim=1)


def strides_of(head: nn.Module) -> tuple[int, ...]:
    """Pixels per position of each level of a dense head."""
    strides = getattr(head, 'prior_generator', head).strides
    return tuple(int(s[0] if isinstance(s, tuple | list) else s) for s in strides)


def anchors_of(head: nn.Module) -> str:
    """Shapes of a dense head's anchors, in words; empty for heads without."""
    generator = getattr(head, 'prior_generator', None)
    if not hasattr(generator, 'ratios'):
        return ''
    scales, ratios = (  # of all levels together; SSD has some for each
        ', '.join(f'{value:.4g}' for each in values for value in torch.as_tensor(each).reshape(-1))
        for values in (generator.scales, generator.ratios)
    )
    return f'scales {scales} and ratios {ratios} of {tuple(generator.base_sizes)} pixels'


def read_targets(head: nn.Module, targets: tuple, num_images: int) -> Assignment | None:
    """Bring what mmdet's ``get_targets`` methods return to one form; None for one we don't know."""
    if not knows_labels(head):
        return None
    method = type(head).get_targets
    if method is FCOSHead.get_targets:
        labels, boxes = targets[:2]
        return Assignment(
            None,
            torch.cat([level.reshape(num_images, -1) for level in labels], dim=1),
            torch.cat([level.reshape(num_images, -1, 4) for level in boxes], dim=1),
        )
    if method in (GFLHead.get_targets, ATSSHead.get_targets):
        anchors, labels, weights, boxes = (torch.cat(levels, 1) for levels in targets[:4])
        return Assignment(anchors, labels, boxes, weights)
    labels, weights, boxes = (torch.cat(levels, 1) for levels in targets[:3])
    return Assignment(None, labels, boxes, weights)


# -- which host family a model is of --------------------------------------------------------------


def is_one_stage(model: nn.Module) -> bool:
    """Whether a model is a one-stage detector whose dense head is known here.

    One with masks, such as CondInst or YOLACT, is by its head of boxes and classes; its kernels or
    coefficients mean something to itself alone. SOLO has no such head. Heads with another number of
    anchors on each level (SSD) are not: their predictions do not lie on a grid.
    """
    head = getattr(model, 'bbox_head', None)
    return (
        isinstance(model, SingleStageDetector | SingleStageInstanceSegmentor)
        and isinstance(head, AnchorHead | FCOSHead)
        and isinstance(getattr(head, 'num_base_priors', 1), int)
    )


def is_two_stage(model: nn.Module) -> bool:
    """Whether a model is a two-stage detector with one box head, or a cascade, behind one RPN."""
    roi_head = getattr(model, 'roi_head', None)
    return (
        isinstance(model, TwoStageDetector)
        and type(model).loss is TwoStageDetector.loss  # Trident's repeats each image
        and isinstance(getattr(model, 'rpn_head', None), RPNHead)
        and (isinstance(roi_head, StandardRoIHead) or is_cascade(roi_head))
        and all(
            isinstance(head, BBoxHead) and type(head).get_targets is BBoxHead.get_targets
            for head in stages_of(getattr(roi_head, 'bbox_head', None))
        )
    )


def is_cascade(roi_head: Any) -> bool:
    """Whether a second stage is several, as in Cascade R-CNN, each of which sees proposals alone.

    Those of HTC and SCNet see more than that.
    """
    return (
        isinstance(roi_head, CascadeRoIHead)
        and type(roi_head)._bbox_forward is CascadeRoIHead._bbox_forward
    )


def stages_of(heads: Any) -> list[Any]:
    """The heads of a cascade in order; one that stands alone as a list."""
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def of_stage(roi_head: Any, method: str, stage: int) -> Callable[..., Any]:
    """A method of a second stage, of one stage where it is a cascade.

    Args:
        roi_head: of a two-stage detector.
        method: its name.
        stage: index of a cascade's stage; of others without effect.
    """
    found = getattr(roi_head, method)
    return partial(found, range(roi_head.num_stages)[stage]) if is_cascade(roi_head) else found


def is_segmentor(model: nn.Module) -> bool:
    """Whether a model is a segmentor whose decode head, or cascade of these, classifies pixels."""
    if not _is_encoder_decoder(model):
        return False
    from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead

    heads = stages_of(model.decode_head)
    return (
        all(
            hasattr(head, 'cls_seg') and hasattr(head, 'loss_by_feat')  # as BaseDecodeHead
            for head in heads
        )
        and all(
            type(head).loss is BaseCascadeDecodeHead.loss  # PointRend's samples points
            for head in heads[1:]
        )
    )


def is_mask_transformer(model: nn.Module) -> bool:
    """Whether a model is a MaskFormer or Mask2Former whose classes share out all pixels.

    One for instances alone knows no class of what is behind them.
    """
    if _is_encoder_decoder(model):
        return isinstance(model.decode_head, MaskFormerHead)
    head = getattr(model, 'panoptic_head', None)
    return (
        isinstance(model, MaskFormer)
        and isinstance(head, MaskFormerHead)
        and head.num_stuff_classes > 0
    )


def _is_encoder_decoder(model: Any) -> bool:
    mmseg = sys.modules.get('mmseg.models')  # a model of mmseg has imported it
    return mmseg is not None and isinstance(model, mmseg.EncoderDecoder)


def classifier_of(model: nn.Module) -> Any:
    """The head that knows the classes, the last one of a cascade; else the model itself."""
    for owner in (model, getattr(model, 'roi_head', None)):
        for name in CLASSIFIERS:
            head = getattr(owner, name, None)
            if isinstance(head, nn.ModuleList) and len(head):
                head = head[-1]
            if isinstance(head, nn.Module):
                return head
    return model


# -- what a head can do ---------------------------------------------------------------------------


def knows_labels(head: nn.Module) -> bool:
    """Whether :func:`read_targets` knows the label assignment of a dense head."""
    known = (FCOSHead, GFLHead, ATSSHead, AnchorHead)
    if getattr(head, 'use_ohem', False):  # YOLACT then leaves the padding out of them
        return False
    return getattr(type(head), 'get_targets', None) in [kind.get_targets for kind in known]


def knows_anchors(head: nn.Module) -> bool:
    """Whether it knows the anchors too that the assigner saw."""
    method = getattr(type(head), 'get_targets', None)
    return method in (GFLHead.get_targets, ATSSHead.get_targets)


def assigns_by_atss(head: nn.Module) -> bool:
    """Whether a dense head assigns labels by ATSS, with anchors that are known."""
    return knows_anchors(head) and isinstance(getattr(head, 'assigner', None), ATSSAssigner)


def predicts_bins(head: nn.Module) -> bool:
    """Whether a dense head predicts each edge of a box as a distribution over bins."""
    return isinstance(head, GFLHead)


def predicts_deltas(head: nn.Module) -> bool:
    """Whether a head, dense or of a second stage, predicts boxes as deltas from references."""
    # some heads have a coder that they do not use: GFL's, and Grid R-CNN's second stage
    unused = isinstance(head, GFLHead) or not getattr(head, 'with_reg', True)
    return not unused and isinstance(getattr(head, 'bbox_coder', None), DeltaXYWHBBoxCoder)


def predicts_masks(roi_head: Any) -> bool:
    """Whether a second stage predicts a mask of each proposal, as Mask R-CNN does."""
    owner = CascadeRoIHead if is_cascade(roi_head) else StandardRoIHead
    return (
        roi_head.with_mask
        and type(roi_head).mask_loss is owner.mask_loss  # PointRend's has points besides
        and all(
            isinstance(head, FCNMaskHead)
            and type(head).loss_and_target is FCNMaskHead.loss_and_target
            for head in stages_of(roi_head.mask_head)
        )
    )


def box_targets_are_boxes(head: nn.Module) -> bool:
    """Whether the box targets of a dense head are boxes, xyxy in pixels, and no deltas."""
    return type(head).get_targets is ATSSHead.get_targets or bool(
        getattr(head, 'reg_decoded_bbox', False)
    )


def divides_by_positives(head: nn.Module) -> bool:
    """Whether a dense head divides its class loss by its positives, or by all that it sampled."""
    return isinstance(getattr(head, 'sampler', None), PseudoSampler | None)


def ignores_boxes(head: nn.Module) -> bool:
    """Whether the assigner of a dense head leaves out anchors under boxes to be ignored."""
    return getattr(getattr(head, 'assigner', None), 'ignore_iof_thr', -1) > 0


def ignored_anchors(head: Any, anchors: Tensor, ignored: Tensor) -> Tensor:
    """Which anchors the assigner of a dense head leaves out for lying under ignored boxes.

    Args:
        head: one that :func:`ignores_boxes`.
        anchors: xyxy in pixels, (P, 4).
        ignored: boxes, xyxy in pixels, (G, 4), one at least.

    Returns:
        bool, (P,).
    """
    assigner = head.assigner
    if getattr(assigner, 'ignore_wrt_candidates', True):
        overlaps = bbox_overlaps(anchors, ignored, mode='iof')
    else:
        overlaps = bbox_overlaps(ignored, anchors, mode='iof').T
    return overlaps.amax(dim=1) > assigner.ignore_iof_thr


def decodes_boxes(head: nn.Module) -> bool:
    """Whether :func:`decode_boxes` knows how a dense head encodes its boxes."""
    return predicts_bins(head) or predicts_deltas(head) or _predicts_distances(head)


def decode_boxes(head: Any, encoded: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Boxes that a dense head predicts.

    Args:
        head: one that :func:`decodes_boxes`.
        encoded: what it predicts, (N, P, 4), or (N, P, 4 * bins) of a GFL-like head.
        anchors: its anchors, xyxy in pixels, (P, 4); points (x, y), (P, 2), of a head without.
        strides: pixels per position of each prediction's level, (P,).

    Returns:
        xyxy in pixels, (N, P, 4).
    """
    if predicts_deltas(head):
        flat = anchors.expand_as(encoded).flatten(0, 1)
        boxes = head.bbox_coder.decode(flat, encoded.flatten(0, 1))
        return get_box_tensor(boxes).reshape(encoded.shape)
    if predicts_bins(head):
        centres = head.anchor_center(anchors)
        steps = torch.arange(encoded.shape[-1] // 4, device=encoded.device, dtype=encoded.dtype)
        distances = encoded.unflatten(-1, (4, -1)).softmax(dim=-1) @ steps * strides[:, None]
    else:
        centres, distances = anchors, encoded
        if head.norm_on_bbox and head.training:  # in evaluation the head does so itself
            distances = distances * strides[:, None]
    low, high = distances[..., :2], distances[..., 2:]
    return torch.cat([centres - low, centres + high], dim=-1)


def boxes_are_in_pixels(head: nn.Module) -> bool:
    """Whether a dense head in evaluation predicts boxes in pixels, not in strides or as deltas."""
    return _predicts_distances(head)


def is_partner(head: Any, level: int, other: int, scale: float) -> bool:
    """Whether a level of an image has the place and meaning of another level of a larger one.

    So it is where the other one's stride, and the base size of its anchors, are as many times as
    large as the image.

    Args:
        head: a dense head.
        level: of the image.
        other: of the image that is ``scale`` times as large.
        scale: of both sides.
    """
    generator = head.prior_generator
    sizes = [strides_of(head)]
    if hasattr(generator, 'base_sizes'):
        sizes.append(tuple(generator.base_sizes))
    return all(each[other] == scale * each[level] for each in sizes)


def _predicts_distances(head: nn.Module) -> bool:
    return getattr(type(head), 'get_targets', None) is FCOSHead.get_targets


def plain_cross_entropy(head: Any) -> bool:
    """Whether a decode head's or a second stage's own class loss is one plain cross entropy.

    Over a softmax, averaged, without weights of classes, and of all elements alike.
    """
    loss = getattr(head, 'loss_decode', None) or getattr(head, 'loss_cls', None)
    return (
        type(loss).__name__ == 'CrossEntropyLoss'
        and not (loss.use_sigmoid or loss.use_mask)
        and loss.class_weight is None
        and loss.reduction == 'mean'
        and getattr(head, 'sampler', None) is None
    )


def box_encoding(head: Any) -> str:
    """How a head encodes boxes, in words, with all its numbers: heads that agree mean the same."""
    coder = getattr(head, 'bbox_coder', None)
    found = [f'{type(coder).__name__} {_numbers_of(coder)}' if coder is not None else 'distances']
    found += [
        f'{name}={getattr(head, name)}'
        for name in ('reg_max', 'norm_on_bbox', 'reg_class_agnostic', 'reg_decoded_bbox')
        if hasattr(head, name)
    ]
    return ', '.join(filter(None, [*found, anchors_of(head)]))


def _numbers_of(coder: Any) -> str:
    """The plain attributes of a coder, such as means and stds."""
    kept = {k: v for k, v in vars(coder).items() if isinstance(v, int | float | str | tuple | list)}
    return ', '.join(f'{name}={value}' for name, value in sorted(kept.items()))


# -- the two towers of a one-stage head: convolutions, and the layer behind them that predicts -----

CLASS, BOX = 'cls', 'box'
# the predicting layers of heads whose forward pass of a level is known here
PREDICTORS: dict[Any, dict[str, str]] = {
    GFLHead.forward_single: {CLASS: 'gfl_cls', BOX: 'gfl_reg'},
    ATSSHead.forward_single: {CLASS: 'atss_cls', BOX: 'atss_reg'},
    RetinaHead.forward_single: {CLASS: 'retina_cls', BOX: 'retina_reg'},
    FCOSHead.forward_single: {CLASS: 'conv_cls', BOX: 'conv_reg'},
}
OF_ALL_LEVELS = (GFLHead.forward, ATSSHead.forward, AnchorHead.forward, FCOSHead.forward)
CONVOLUTIONS = {CLASS: 'cls_convs', BOX: 'reg_convs'}


def knows_towers(head: nn.Module) -> bool:
    """Whether :func:`run_tower` computes the class or the box half of a head's forward pass."""
    single = getattr(type(head), 'forward_single', None)
    return single in PREDICTORS and type(head).forward in OF_ALL_LEVELS


def tower_layers(head: Any, tower: str) -> list[nn.Module]:
    """The layers of a tower in order; the last one predicts.

    Args:
        head: one of which :func:`knows_towers`.
        tower: ``'cls'`` or ``'box'``.
    """
    predictor = PREDICTORS[type(head).forward_single][tower]
    return [*getattr(head, CONVOLUTIONS[tower]), getattr(head, predictor)]


def run_tower(
    head: Any,
    tower: str,
    maps: Sequence[Tensor],
    layers: int | None = None,
    levels: Sequence[int] | None = None,
) -> list[Tensor]:
    """What a head predicts of classes or boxes, in the number type of the maps.

    Args:
        head: one of which :func:`knows_towers`.
        tower: ``'cls'`` or ``'box'``.
        maps: what the first of the layers reads, one map for each level.
        layers: how many of the tower's last layers to run; None for all.
        levels: which of the head's levels the maps are; None for all in order.

    Returns:
        a map for each level, as the head's forward pass returns it.
    """
    last = tower_layers(head, tower)[-layers if layers else 0 :]
    found = []
    for level, features in zip(levels or range(len(maps)), maps, strict=True):
        for layer in last:
            features = _in_type_of(features, layer)
        found.append(_scaled_boxes(head, features, level) if tower == BOX else features)
    return found


def _in_type_of(features: Tensor, layer: nn.Module) -> Tensor:
    """The output of a layer whose weights may be of another number type than its input."""
    tensors = dict(layer.named_parameters()) | dict(layer.named_buffers())
    if all(t.dtype == features.dtype for t in tensors.values() if t.is_floating_point()):
        return layer(features)
    cast = {k: t.to(features.dtype) if t.is_floating_point() else t for k, t in tensors.items()}
    return torch.func.functional_call(layer, cast, (features,))


def _scaled_boxes(head: Any, boxes: Tensor, level: int) -> Tensor:
    """What the box tower's last layer predicts, as the head returns it of one level."""
    single = type(head).forward_single
    if single is RetinaHead.forward_single:
        return boxes
    boxes = head.scales[level](boxes).float()
    if single is not FCOSHead.forward_single:
        return boxes
    if not head.norm_on_bbox:
        return boxes.exp()
    return boxes.clamp(min=0) * (1 if head.training else head.strides[level])


def class_bias(model: Any, label: int) -> tuple[nn.Parameter, list[int]]:
    """The bias of the layer that scores classes, and which of its entries belong to a class.

    Args:
        model: a segmentor, or a detector of one or two stages.
        label: index of the class.

    Raises:
        SetupError: its layer is not known here, has no bias, or there is no such class.
    """
    if hasattr(model, 'decode_head'):
        layer = getattr(stages_of(model.decode_head)[-1], 'conv_seg', None)
        count = getattr(layer, 'out_channels', 0)
    elif hasattr(model, 'roi_head'):
        layer = getattr(getattr(model.roi_head, 'bbox_head', None), 'fc_cls', None)
        count = getattr(layer, 'out_features', 0)
    else:
        head = getattr(model, 'bbox_head', None)
        known = head is not None and knows_towers(head)
        layer = tower_layers(head, CLASS)[-1] if known else None
        count = getattr(head, 'cls_out_channels', 0)
    bias = getattr(layer, 'bias', None)
    if bias is None:
        raise SetupError(
            f'The layer that scores the classes of this {type(model).__name__} is not known, or '
            'has no bias. Segmentors with `conv_seg`, GFL, ATSS, RetinaNet, FCOS and second stages '
            'with `fc_cls` have one.'
        )
    if not 0 <= label < count:
        raise SetupError(f'There is no class {label}: the model scores {count}.')
    return bias, list(range(label, len(bias), count))  # one for each anchor of a position
