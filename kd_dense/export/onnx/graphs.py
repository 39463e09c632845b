"""The graphs of one-stage detectors and of segmentors, and the choice of a model's graph.

Letters: N images, H and W pixels, P predictions, K classes. Boxes are xyxy in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from torch import Tensor, nn

from ...errors import SetupError
from .base import Graph
from .decode import can_decode, clip, decode
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
        head = self.model.bbox_head
        boxes, scores = decode(head, *head(self.model.extract_feat(images)))
        return clip(boxes, size), scores


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
        heads = self.model.decode_head
        heads = heads if isinstance(heads, nn.ModuleList) else [heads]
        features = self.model.extract_feat(images)
        logits = heads[0](features)
        for head in list(heads)[1:]:  # of a cascade
            logits = head(features, logits)
        logits = F.interpolate(
            logits, images.shape[-2:], mode='bilinear', align_corners=self.model.align_corners
        )
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
