"""What was found and what was missed, object by object and pixel by pixel, as plain functions.

Letters: G annotated objects, D detections, K classes. Boxes are xyxy in pixels of the image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from ..pictures.draw import IGNORED
from ..pictures.samples import Objects, shared_pixels

OVERLAP = 0.5  # intersection over union from which on a detection is of an object


@dataclass(frozen=True)
class Matches:
    """Which annotated objects a model found.

    Attributes:
        found: bool, (G,).
        right: whether each detection found one, bool, (D,).
        neutral: of what is ignored, which counts neither way, bool, (D,).
    """

    found: np.ndarray
    right: np.ndarray
    neutral: np.ndarray


def match(truth: Objects, detections: Objects) -> Matches:
    """Give each detection, surest first, the free object of its class that it overlaps most.

    Args:
        truth: what was annotated.
        detections: sorted by score, the surest first.
    """
    found = np.zeros(len(truth), bool)
    right, neutral = np.zeros(len(detections), bool), np.zeros(len(detections), bool)
    pair = (torch.from_numpy(each.boxes).double() for each in (detections, truth))
    overlap = box_iou(*pair).numpy()
    same = detections.labels[:, None] == truth.labels[None]
    for index in range(len(detections)):
        near = same[index] & (overlap[index] >= OVERLAP)
        free = near & ~found & truth.counts
        if free.any():
            found[np.where(free, overlap[index], -1).argmax()] = True
            right[index] = True
        else:
            neutral[index] = (near & ~truth.counts).any()
    return Matches(found, right, neutral)


@dataclass
class Change:
    """What distillation changed, counted in objects or pixels.

    Attributes:
        both, gained, lost, neither: right in the student alone and distilled, only distilled, only
            alone, in neither.
        false_alone, false_distilled: detections of nothing; None for segmentation.
        images: gained and lost of each image.
    """

    both: int = 0
    gained: int = 0
    lost: int = 0
    neither: int = 0
    false_alone: int | None = None
    false_distilled: int | None = None
    images: list[tuple[int, int]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All objects, or pixels."""
        return self.both + self.gained + self.lost + self.neither

    def add(self, alone: np.ndarray, distilled: np.ndarray) -> None:
        """Count one image.

        Args:
            alone, distilled: whether each object or pixel was right.
        """
        gained, lost = int((~alone & distilled).sum()), int((alone & ~distilled).sum())
        self.both += int((alone & distilled).sum())
        self.neither += int((~alone & ~distilled).sum())
        self.gained += gained
        self.lost += lost
        self.images.append((gained, lost))


def change_of_objects(
    truths: Sequence[Objects],
    alone: Sequence[Objects],
    distilled: Sequence[Objects],
    threshold: float,
) -> Change:
    """Objects gained and lost between a student alone and distilled.

    Args:
        truths: what was annotated, one of each image.
        alone, distilled: what was detected.
        threshold: detections with a lower score do not count.
    """
    change = Change(false_alone=0, false_distilled=0)
    for truth, *both in zip(truths, alone, distilled, strict=True):
        before, after = (match(truth, detections.above(threshold)) for detections in both)
        change.add(before.found[truth.counts], after.found[truth.counts])
        change.false_alone += int((~before.right & ~before.neutral).sum())
        change.false_distilled += int((~after.right & ~after.neutral).sum())
    return change


def change_of_pixels(
    truths: Sequence[np.ndarray], alone: Sequence[np.ndarray], distilled: Sequence[np.ndarray]
) -> Change:
    """Pixels gained and lost; all arguments are class indices, (H, W) each."""
    change = Change()
    for truth, before, after in zip(truths, alone, distilled, strict=True):
        counts = truth != IGNORED
        change.add((before == truth)[counts], (after == truth)[counts])
    return change


def average_precisions(
    truths: Sequence[Objects], detections: Sequence[Objects], count: int
) -> list[float | None]:
    """COCO AP of each class on these images, in points; None for a class without objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for image, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        for box, label, counts in zip(_xywh(truth), truth.labels, truth.counts, strict=True):
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image, category_id=int(label), bbox=box,
                     area=box[2] * box[3], iscrowd=int(not counts))
            )  # fmt: skip
        results += [
            dict(image_id=image, category_id=int(label), bbox=box, score=float(score))
            for box, label, score in zip(_xywh(found), found.labels, found.scores, strict=True)
        ]
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(
            info={},
            images=[dict(id=i) for i in range(len(truths))],
            annotations=annotations,
            categories=[dict(id=i) for i in range(count)],
        )
        coco.createIndex()
        if not results or not annotations:
            has = {a['category_id'] for a in annotations if not a['iscrowd']}
            return [0.0 if k in has else None for k in range(count)]
        evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval['precision'][:, :, :, 0, -1]  # IoU, recall, class; all sizes
    classes = [precision[:, :, k] for k in range(count)]
    return [float(p[p > -1].mean()) * 100 if (p > -1).any() else None for p in classes]


def _xywh(objects: Objects) -> list[list[float]]:
    return box_convert(torch.from_numpy(objects.boxes).double(), 'xyxy', 'xywh').tolist()


def class_overlaps(
    truths: Sequence[np.ndarray], predicted: Sequence[np.ndarray], count: int
) -> list[float | None]:
    """Intersection over union of each class over all pixels of these images, in points."""
    pairs = zip(truths, predicted, strict=True)
    shared, union, annotated = sum(shared_pixels(*pair, count) for pair in pairs)
    return [
        float(s / u) * 100 if a else None for s, u, a in zip(shared, union, annotated, strict=True)
    ]
