"""The graph of two-stage detectors whose parts are all known.

Letters: N images, R proposals, K classes. Boxes are xyxy in pixels.
"""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from ...hosts.heads import flatten_levels
from .base import Graph
from .decode import boxes_from_deltas, clip


class TwoStageGraph(Graph):
    """Boxes (1, R, K, 4) and scores (1, R, K), of one image at a time.

    The number of proposals differs from image to image, so a batch has no common shape.
    """

    kind = 'boxes and scores of a two-stage detector before the last non-maximum suppression'
    any_batch = False
    missing = 'one image at a time: the number of proposals differs from image to image'

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return dict(boxes={1: 'proposals'}, scores={1: 'proposals'})

    @staticmethod
    def describes(model: nn.Module) -> bool:
        """Whether all parts of a detector are those that this graph knows."""
        rpn, roi = model.rpn_head, model.roi_head
        return (
            type(rpn) is RPNHead
            and rpn.use_sigmoid_cls
            and type(rpn.bbox_coder) is DeltaXYWHBBoxCoder
            and rpn.test_cfg.nms.get('type', 'nms') == 'nms'
            and type(roi) is StandardRoIHead
            and not (roi.with_mask or roi.with_shared_head)
            and type(roi.bbox_roi_extractor) is SingleRoIExtractor
            and type(roi.bbox_head)._predict_by_feat_single is BBoxHead._predict_by_feat_single
            and type(roi.bbox_head.bbox_coder) is DeltaXYWHBBoxCoder
            and not roi.bbox_head.custom_activation
            and roi.bbox_head.with_reg
        )

    def predict(self, images: Tensor, size: tuple) -> tuple[Tensor, ...]:
        features = self.model.extract_feat(images)
        proposals = self.proposals(features, size)
        head = self.model.roi_head.bbox_head
        logits, deltas = head(self.pool(features, proposals))
        scores = logits.softmax(dim=-1)[:, :-1]
        deltas = deltas.reshape(deltas.shape[0], -1, 4)
        boxes = boxes_from_deltas(proposals[:, None], deltas, head.bbox_coder)
        boxes = clip(boxes, size).expand(-1, scores.shape[1], -1)
        return boxes[None], scores[None]

    def proposals(self, features: tuple[Tensor, ...], size: tuple) -> Tensor:
        """What the RPN proposes for the one image, (R, 4)."""
        head = self.model.rpn_head
        settings = head.test_cfg
        maps = list(zip(*head(features), strict=True))
        sizes = [m.shape[-2:] for m, _ in maps]
        priors = head.prior_generator.grid_priors(sizes, device=features[0].device)
        boxes, scores, levels = [], [], []
        for index, ((classes, deltas), anchors) in enumerate(zip(maps, priors, strict=True)):
            ranked, order = flatten_levels([classes], 1)[0, :, 0].sigmoid().sort(descending=True)
            if settings.nms_pre > 0:
                ranked, order = ranked[: settings.nms_pre], order[: settings.nms_pre]
            chosen = flatten_levels([deltas], 4)[0][order]
            boxes.append(boxes_from_deltas(anchors[order], chosen, head.bbox_coder))
            scores.append(ranked)
            levels.append(torch.full_like(ranked, index))
        boxes, scores, levels = clip(torch.cat(boxes), size), torch.cat(scores), torch.cat(levels)
        if settings.get('min_bbox_size', -1) >= 0:
            large = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) > settings.min_bbox_size
            boxes, scores, levels = boxes[large], scores[large], levels[large]
        apart = boxes + (levels * (boxes.max() + 1))[:, None]  # levels do not suppress each other
        return boxes[nms(apart, scores, settings.nms.iou_threshold)[: settings.max_per_img]]

    def pool(self, features: tuple[Tensor, ...], proposals: Tensor) -> Tensor:
        """The features inside proposals, each from the level that fits its size."""
        extractor = self.model.roi_head.bbox_roi_extractor
        rois = torch.cat([torch.zeros_like(proposals[:, :1]), proposals], dim=1)
        used = features[: extractor.num_inputs]
        level_of = extractor.map_roi_levels(rois, len(used))
        pooled, places = [], []
        for index, (feature, layer) in enumerate(zip(used, extractor.roi_layers, strict=True)):
            place = (level_of == index).nonzero().squeeze(1)
            pooled.append(
                roi_align(
                    feature,
                    rois[place],
                    layer.output_size,
                    layer.spatial_scale,
                    layer.sampling_ratio,
                    layer.aligned,
                )
            )
            places.append(place)
        return torch.cat(pooled)[torch.cat(places).argsort()]
