"""The objects that a detector of any kind finds, as probabilities of classes and boxes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh, get_box_tensor
from torch import Tensor

from ..errors import SetupError
from ..hosts.heads import classifier_of
from .readable import readable
from .view import View, in_half_precision
from .watch import replaced


class Detections(NamedTuple):
    """The objects found in one image, B of them.

    Attributes:
        scores: probability of each class, (B, K).
        boxes: (cx, cy, w, h) as shares of the image without its padding, (B, 4).
    """

    scores: Tensor
    boxes: Tensor


class PredictingView(View):
    """A view of a detector that shows the objects which it finds."""

    @readable(agree=('num_classes',))
    def detections(self) -> list[Detections]:
        """What ``predict`` of the model finds in each image, N times; of one class each.

        Raises:
            SetupError: the model finds no boxes, or runs in half precision.
        """
        if in_half_precision(self.model):
            raise SetupError(
                f'A {type(self.model).__name__} finds objects in single precision only: '
                "suppression knows no half one. Leave the teacher's `dtype` out."
            )
        features = self.features
        samples = [type(each)(metainfo=each.metainfo) for each in self.batch.samples]
        with self._context(), replaced(self.model, 'extract_feat', lambda *_: features):
            found = self.model.predict(self.batch.images, samples, rescale=False)
        sizes = self.batch.image_sizes()
        return [self._detections(each, size) for each, size in zip(found, sizes, strict=True)]

    def _detections(self, sample: Any, size: tuple[int, int]) -> Detections:
        """The objects of a sample with predictions, of an image of (height, width) pixels."""
        found = sample.get('pred_instances')
        if found is None or 'bboxes' not in found:
            raise SetupError(
                f'A {type(self.model).__name__} finds no boxes. Choose a detector as the teacher.'
            )
        height, width = size
        pixels = torch.tensor([width, height, width, height], device=found.labels.device)
        classes = F.one_hot(found.labels.long(), classifier_of(self.model).num_classes)
        boxes = bbox_xyxy_to_cxcywh(get_box_tensor(found.bboxes).float() / pixels)
        return Detections(found.scores.float()[:, None] * classes, boxes)
