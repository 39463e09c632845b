"""Where to distil: which predictions of a dense head a loss compares.

In two-stage detectors the dense head is the region proposal network's.

Every region is a function of the two views that returns a bool mask over the student's
predictions, (N, P); N images, P predictions per image over all levels, G objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn
from torchvision.ops import nms

from ..errors import SetupError
from ..views import DenseView, OneStageView, View, host_info, view_class
from ..views.info import ANCHORS, ATSS, BINS, LABELS

GAMMA_VLR = 0.25  # lower bound of the valuable localization region, of ATSS's threshold
FINE_GRAINED_SHARE = 0.5  # of the best anchor's IoU
GENERAL_INSTANCES = 10  # most disagreed boxes per image
GENERAL_NMS_IOU = 0.3
MOST_UNKNOWN = 0.001  # of a region, by a teacher that is stored


def all_positions(student: View, teacher: View) -> Tensor:
    """Everything but padding, and what lies under ignored boxes."""
    return student.eligible


def main_region(student: DenseView, teacher: DenseView) -> Tensor:
    """The positives of the student's own label assignment, of classes that the teacher knows."""
    positives = student.positives & student.valid
    if teacher.class_map is not None:
        positives &= teacher.class_map.known(student.assignment.labels)
    return positives


def levels_with_positives(student: DenseView) -> Tensor:
    """On which levels of the batch the student's own assignment has positives; bool, (L,)."""
    positives = student.positions(student.positives & student.valid)
    return torch.stack([level.any() for level in positives])


def inside_boxes(student: DenseView, teacher: DenseView) -> Tensor:
    """Positions whose centre lies inside an object's box, on every level."""
    centres = position_centres(student)
    masks = [_contains(centres, boxes).any(dim=1) for boxes in student.boxes]
    return torch.stack(masks).repeat_interleave(student.num_anchors, dim=1) & student.eligible


def fine_grained_region(student: DenseView, teacher: DenseView) -> Tensor:
    """Anchors near objects: IoU above half of the best anchor's of that object.

    Source: Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation",
    arXiv 1906.03609, section 3.2.
    """

    def near(anchors: Tensor, boxes: Tensor, per_level: list[int]) -> Tensor:
        overlaps = bbox_overlaps(anchors, boxes)
        return (overlaps > FINE_GRAINED_SHARE * overlaps.amax(dim=0)).any(dim=1)

    return _by_image(student, near, torch.zeros((), dtype=torch.bool))


def valuable_localization_region(student: DenseView, teacher: DenseView) -> Tensor:
    """Positions with gamma * a <= DIoU < a to some object, a being ATSS's threshold for it.

    Source: Zheng et al., arXiv 2102.12252, section 3.3 and algorithm 1, gamma = 0.25.
    """
    return vlr_overlaps(student) >= 0


def vlr_overlaps(student: DenseView, variant: str = 'paper') -> Tensor:
    """Best IoU of each prediction with the objects in whose valuable region it lies, -1 outside.

    Args:
        student: the student's view.
        variant: ``'reference'`` for the region of the authors' code, whose ``bbox_overlaps`` in
            mode ``'diou'`` divides the intersection by the anchor's area and not by the union.

    Returns:
        (N, P).
    """
    topk = student.atss_candidates

    def best(anchors: Tensor, boxes: Tensor, per_level: list[int]) -> Tensor:
        overlaps = bbox_overlaps(anchors, boxes)
        threshold = atss_threshold(anchors, overlaps, boxes, per_level, topk)
        shares = overlaps if variant == 'paper' else bbox_overlaps(anchors, boxes, mode='iof')
        diou = distance_iou(anchors, boxes, shares)
        chosen = (diou >= GAMMA_VLR * threshold) & (diou < threshold)
        return torch.where(chosen, overlaps, -1.0).amax(dim=1)

    return _by_image(student, best, torch.tensor(-1.0))


def general_instances(student: OneStageView, teacher: OneStageView) -> Tensor:
    """Positions inside the boxes on which teacher and student disagree most.

    Of each prediction the larger difference of class scores counts, with the box of whichever model
    is surer; after NMS at 0.3 the ten most disagreed boxes of an image are kept. Positions on
    all levels whose centre lies inside one of them are taken.

    Source: Dai et al., "General Instance Distillation", arXiv 2103.02340, section 3.1. Differs from
    it: that crops the boxes by RoIAlign, here their positions are compared in place.
    """
    centres = position_centres(student).repeat_interleave(student.num_anchors, dim=0)
    disagreement, boxes = _disagreement(student, teacher)
    valid = student.eligible
    masks = []
    for image in range(len(boxes)):
        score = disagreement[image].masked_fill(~valid[image], -1.0)
        kept = nms(boxes[image], score, GENERAL_NMS_IOU)[:GENERAL_INSTANCES]
        kept = kept[valid[image, kept]]
        masks.append(_contains(centres, boxes[image][kept]).any(dim=1))
    return torch.stack(masks) & valid


def published_general_instances(student: OneStageView, teacher: OneStageView) -> Tensor:
    """General instances as the code of "Localization Distillation" finds them.

    The ten positions of each *level* of the *whole batch* whose boxes are most disagreed on, after
    one NMS at 0.3 over all images; the positions themselves, not what lies inside their boxes.
    Differs from that code: the padding is left out.
    """
    scores, boxes = _disagreement(student, teacher)
    scores = scores.masked_fill(~student.eligible, -1.0)
    mask = torch.zeros_like(student.eligible)
    for level in range(len(student.level_sizes)):
        here = student.level_index == level
        kept = nms(boxes[:, here].flatten(0, 1), scores[:, here].flatten(), GENERAL_NMS_IOU)
        chosen = torch.zeros_like(mask[:, here]).flatten()
        chosen[kept[:GENERAL_INSTANCES]] = True
        mask[:, here] = chosen.view(len(mask), -1)
    return mask & student.eligible


def _disagreement(student: OneStageView, teacher: OneStageView) -> tuple[Tensor, Tensor]:
    """Largest difference of class scores, (N, P), and the box of the surer model, (N, P, 4)."""
    s, t = student.flat_cls_logits.detach().sigmoid(), teacher.flat_cls_logits.sigmoid()
    disagreement, which = (t - s).abs().max(dim=-1)
    surer = (t > s).gather(-1, which[..., None])
    boxes = torch.where(surer, teacher.decoded_boxes, student.decoded_boxes.detach())
    return disagreement, boxes


REGIONS: dict[str, Callable[[Any, Any], Tensor]] = {
    'all': all_positions,
    'box': inside_boxes,
    'fine_grained': fine_grained_region,
    'main': main_region,
    'vlr': valuable_localization_region,
    'general': general_instances,
}


def known_to(teacher: View, mask: Tensor, read: str) -> Tensor:
    """What of a region the teacher knows: all of it, but for teachers that are stored.

    Args:
        teacher: the teacher's view.
        mask: a region, (N, P).
        read: which property of the teacher is compared there.

    Raises:
        SetupError: more than a thousandth of it is unknown.
    """
    known = teacher.known(read)
    if known is None:
        return mask
    unknown, asked = int((mask & ~known).sum()), int(mask.sum())
    if unknown > MOST_UNKNOWN * asked:
        raise SetupError(
            f'The store of the teacher does not hold {unknown} of the {asked} predictions of this '
            'batch that a loss compares: it was written for another label assignment than the '
            "student's. Write it with the student's config, or with `--whole`."
        )
    return mask & known


def region_reads(name: str) -> tuple[str, ...]:
    """What a region reads of both views."""
    return ('cls_logits', 'box_logits') if name == 'general' else ()


def check_region(name: str) -> None:
    """Raise SetupError unless there is such a region."""
    if name not in REGIONS:
        raise SetupError(f'region is {name!r}; choose one of {", ".join(map(repr, REGIONS))}.')


def region_demands(name: str, student: nn.Module) -> list[str]:
    """What a region asks of the student's head and does not find, as sentences."""
    view = view_class(student)
    if not issubclass(view, DenseView):
        return [] if name == 'all' else [f'region {name!r} needs a detector, found {view.family}']
    head, able = view.head_of(student), host_info(student).abilities
    found = f'found {type(head).__name__}'
    if name == 'main':
        return labels_demands(student)
    if name in ('vlr', 'fine_grained') and ANCHORS not in able:
        return [f'region {name!r} needs the anchors of a GFLHead or ATSSHead, {found}']
    if name == 'vlr' and ATSS not in able:
        assigner = type(getattr(head, 'assigner', None)).__name__
        return [f"region 'vlr' needs an ATSSAssigner, found {assigner}"]
    if name == 'general' and BINS not in able:
        return [f"region 'general' needs a GFLHead, {found}"]
    return []


def labels_demands(student: nn.Module) -> list[str]:
    """What the positives of the student's own assignment ask of it, as sentences."""
    if LABELS in host_info(student).abilities:
        return []
    head = type(view_class(student).head_of(student)).__name__
    return [
        f"positives are known of heads that assign labels as mmdet's GFLHead does, found {head}"
    ]


def atss_threshold(
    anchors: Tensor, overlaps: Tensor, boxes: Tensor, per_level: list[int], topk: int
) -> Tensor:
    """ATSS's threshold of each object: mean + std of the IoU of its candidates.

    Candidates are the ``topk`` anchors of each level whose centres are nearest to the object's.

    Source: Zhang et al., arXiv 1912.02424, algorithm 1.

    Args:
        anchors: xyxy in pixels, (P, 4).
        overlaps: IoU, (P, G).
        boxes: xyxy in pixels, (G, 4).
        per_level: anchors of each level, adding up to P.
        topk: candidates per level.

    Returns:
        (G,).
    """
    distance = torch.cdist(_centre(anchors), _centre(boxes))
    candidates, start = [], 0
    for count in per_level:
        level = distance[start : start + count]
        candidates.append(level.topk(min(topk, count), dim=0, largest=False).indices + start)
        start += count
    chosen = overlaps.gather(0, torch.cat(candidates))
    return chosen.mean(dim=0) + chosen.std(dim=0)


def distance_iou(anchors: Tensor, boxes: Tensor, overlaps: Tensor) -> Tensor:
    """DIoU = IoU - d^2 / c^2: d between centres, c the diagonal of the enclosing box.

    Source: Zheng et al., arXiv 1911.08287, equation 7.

    Args:
        anchors: xyxy, (P, 4).
        boxes: xyxy, (G, 4).
        overlaps: IoU, (P, G).

    Returns:
        (P, G).
    """
    low = torch.minimum(anchors[:, None, :2], boxes[None, :, :2])
    high = torch.maximum(anchors[:, None, 2:], boxes[None, :, 2:])
    diagonal = (high - low).square().sum(dim=-1)
    centre = (_centre(anchors)[:, None] - _centre(boxes)[None]).square().sum(dim=-1)
    return overlaps - centre / diagonal.clamp(min=1e-6)


def position_centres(view: DenseView) -> Tensor:
    """Point (x, y) in pixels that each position of all levels stands for, (sum of H * W, 2).

    The host's own convention: mmdet's anchors sit on the corner of a position (which is where the
    receptive field of its padded convolutions is centred), FCOS's points in its middle.
    """
    generator = view.head.prior_generator
    offset = getattr(generator, 'center_offset', getattr(generator, 'offset', 0.5))
    device = view.batch.images.device
    centres = []
    for (rows, columns), stride in zip(view.level_sizes, view.strides, strict=True):
        y = (torch.arange(rows, device=device) + offset) * stride
        x = (torch.arange(columns, device=device) + offset) * stride
        centres.append(torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1).reshape(-1, 2))
    return torch.cat(centres)


def _by_image(
    student: DenseView,
    choose: Callable[[Tensor, Tensor, list[int]], Tensor],
    elsewhere: Tensor,
) -> Tensor:
    """``choose(anchors, boxes, anchors per level)`` of each image, in one tensor (N, P).

    Shown are the anchors that the assigner saw, so that thresholds are its own: it counts the
    rounding of each image up to the pad divisor as image. ``elsewhere`` is the value of all
    others, of the padding, and of images without objects.
    """
    anchors = student.assignment.anchors
    # the assigner leaves at 0 what it was not shown, and takes no candidates under ignored boxes
    seen = (anchors != 0).any(dim=-1) & ~student.ignored
    chosen = elsewhere.to(anchors.device).repeat(seen.shape)
    counts = [h * w * student.num_anchors for h, w in student.level_sizes]
    for image, boxes in enumerate(student.boxes):
        if len(boxes):
            per_level = [int(level.sum()) for level in seen[image].split(counts)]
            found = choose(anchors[image, seen[image]], boxes, per_level)
            chosen[image, seen[image]] = found
    return torch.where(student.eligible, chosen, elsewhere.to(anchors.device))


def _contains(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points (P, 2) lie in which boxes (G, 4): bool, (P, G)."""
    low, high = boxes[None, :, :2], boxes[None, :, 2:]
    return ((points[:, None] >= low) & (points[:, None] < high)).all(dim=-1)


def _centre(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2
