"""The graphs of one-stage detectors and of segmentors, and the choice of a model's graph.

Letters: N images, H and W pixels, P predictions, K classes. Boxes are xyxy in pixels.
"""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import AnchorHead, FCOSHead, GFLHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from ...errors import SetupError
from ...hosts.heads import decode_boxes, flatten_levels, predicts_bins, strides_of
from .base import Graph
from .rois import TwoStageGraph

# what maps are left undecoded, and what is left to do with them
OF_ONE_STAGE = (
    'raw maps of a one-stage detector, not decoded',
    'the decoding of this head is not known here: boxes and scores are left to you',
)
OF_TWO_STAGES = (
    'feature maps and RPN maps of a two-stage detector, without its second stage',
    'the second stage of this detector could not be exported: proposals and box head',
)


class DenseGraph(Graph):
    """Boxes (N, P, 4) and scores (N, P, K)."""

    kind = 'boxes and scores of a one-stage detector before non-maximum suppression'

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return dict(boxes={0: 'batch', 1: 'predictions'}, scores={0: 'batch', 1: 'predictions'})

    def predict(self, images: Tensor, size: tuple) -> tuple[Tensor, ...]:
        """All boxes and scores from 0 to 1, by which mmdet ranks; it decodes image by image."""
        head = self.model.bbox_head
        classes, encoded, *centreness = head(self.model.extract_feat(images))
        logits = flatten_levels(classes, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(dim=-1)[..., :-1]
        for maps in centreness:
            scores = scores * flatten_levels(maps, 1).sigmoid()
        sizes = [level.shape[-2:] for level in classes]
        priors = head.prior_generator.grid_priors(sizes, device=scores.device)
        pairs = zip(priors, strides_of(head), strict=True)
        strides = torch.cat([torch.full_like(prior[:, 0], stride) for prior, stride in pairs])
        values = flatten_levels(encoded, 4 * (head.reg_max + 1) if predicts_bins(head) else 4)
        boxes = decode_boxes(head, values, torch.cat(priors), strides)
        return clip_boxes_to_image(boxes, size), scores


def can_decode(head: nn.Module) -> bool:
    """Whether :class:`DenseGraph` knows how a dense head predicts."""
    if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False):
        return False
    if isinstance(head, GFLHead):
        return type(head)._predict_by_feat_single is GFLHead._predict_by_feat_single
    return (
        isinstance(head, AnchorHead | FCOSHead)
        and type(head)._predict_by_feat_single is BaseDenseHead._predict_by_feat_single
        and type(head).predict_by_feat is BaseDenseHead.predict_by_feat
        and type(getattr(head, 'bbox_coder', None)) in (DeltaXYWHBBoxCoder, DistancePointBBoxCoder)
    )


class MapsGraph(Graph):
    """The maps of a detector that is not decoded here, each (N, C, H, W), level by level."""

    def __init__(self, model: nn.Module, normalize: bool = True) -> None:
        super().__init__(model, normalize)
        self.two_stages = isinstance(model, TwoStageDetector)
        self.kind, self.missing = OF_TWO_STAGES if self.two_stages else OF_ONE_STAGE

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        with torch.no_grad():
            return {name: {0: 'batch'} for name in self.maps(torch.zeros(1, 3, 64, 64))}

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The maps by name."""
        features = self.model.extract_feat(images)
        if self.two_stages:
            names = ('features', 'rpn_classes', 'rpn_boxes')
            kinds = dict(zip(names, (features, *self.model.rpn_head(features)), strict=True))
        else:
            kinds = {f'maps_{i}': kind for i, kind in enumerate(self.model.bbox_head(features))}
        return {f'{k}_level_{i}': m for k, kind in kinds.items() for i, m in enumerate(kind)}

    def predict(self, images: Tensor, size: tuple) -> tuple[Tensor, ...]:
        return tuple(self.maps(images).values())


class SegmentationGraph(Graph):
    """Logits (N, K, H, W)."""

    kind = 'logits of a segmentor at the size of the input'

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return dict(logits={0: 'batch', 2: 'height', 3: 'width'})

    def predict(self, images: Tensor, size: tuple) -> tuple[Tensor, ...]:
        logits = self.model.encode_decode(images, [dict(img_shape=images.shape[-2:])])
        return (logits[..., : size[0], : size[1]],)


def graph_of(model: nn.Module, normalize: bool = True) -> Graph:
    """The most useful graph of a model.

    Raises:
        SetupError: none of ours fits it.
    """
    if isinstance(model, SingleStageDetector) and hasattr(model, 'bbox_head'):
        graph = DenseGraph if can_decode(model.bbox_head) else MapsGraph
    elif isinstance(model, TwoStageDetector) and model.with_rpn:
        graph = TwoStageGraph if TwoStageGraph.describes(model) else MapsGraph
    elif hasattr(model, 'decode_head'):
        graph = SegmentationGraph
    else:
        raise SetupError(
            f'--onnx does not know {type(model).__name__}: it exports one-stage and two-stage '
            "detectors of mmdet and mmseg's encoder-decoders. Leave --onnx out; the checkpoint and "
            'its config are written all the same, and MMDeploy may know the model.'
        )
    return graph(model, normalize).eval()
