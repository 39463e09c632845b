"""Predict on one image with an exported student: needs numpy, Pillow and onnxruntime, nothing else.

python predict_onnx.py student.onnx image.jpg --out drawn.png

Everything it has to know stands in the metadata of the .onnx file. Written by kd_dense's
tools/export.py; a starting point for a program of your own.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from PIL import Image, ImageDraw


def read_facts(session) -> dict:
    """The metadata of a graph: classes, preprocessing, thresholds."""
    return {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}


def resized(image: Image.Image, facts: dict) -> Image.Image:
    """The image at the size that the model was tested with."""
    resize = facts.get('resize')
    if resize is None:
        return image
    width, height = resize['scale']
    if resize['keep_ratio']:
        long, short = max(width, height), min(width, height)
        factor = min(long / max(image.size), short / min(image.size))
        width, height = (int(side * factor + 0.5) for side in image.size)
    return image.resize((width, height), Image.BILINEAR)


def as_input(image: Image.Image, facts: dict) -> np.ndarray:
    """An RGB image as the graph wants it, (1, 3, H, W) in float32."""
    pixels = np.asarray(image.convert('RGB'), np.float32)
    if facts['normalization'] == 'outside':
        if facts['channel_order'] == 'BGR':
            pixels = pixels[..., ::-1]
        pixels = (pixels - np.float32(facts['mean'])) / np.float32(facts['std'])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Non-maximum suppression; returns what is kept, best first.

    Args:
        boxes: xyxy, (n, 4).
        scores: (n,).
        threshold: of the intersection over union, from which on a box is dropped.
    """
    order, kept = np.argsort(-scores, kind='stable'), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        overlap = shared / np.maximum(areas[best] + areas[rest] - shared, 1e-9)
        order = rest[overlap <= threshold]
    return kept


def detections(
    boxes: np.ndarray, scores: np.ndarray, facts: dict, threshold: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The objects of one image.

    Args:
        boxes: xyxy, (P, 4), or of each class its own, (P, K, 4).
        scores: (P, K).
        facts: of the graph.
        threshold: the lowest score; default: what the model was tested with.

    Returns:
        boxes, scores and labels, best first.
    """
    threshold = facts['score_threshold'] if threshold is None else threshold
    places, labels = np.nonzero(scores > threshold)
    boxes = boxes[places, labels] if boxes.ndim == 3 else boxes[places]
    scores = scores[places, labels]
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > facts['min_box_size']
    boxes, scores, labels = boxes[large], scores[large], labels[large]
    groups = np.zeros_like(labels) if facts['nms_class_agnostic'] else labels
    kept = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        chosen = suppress(boxes[members], scores[members], facts['nms_iou_threshold'])
        kept += members[chosen].tolist()
    kept = sorted(kept, key=lambda i: -scores[i])[: facts['max_per_image']]
    return boxes[kept], scores[kept], labels[kept]


def labels_of(logits: np.ndarray, facts: dict) -> np.ndarray:
    """The class of each pixel from the logits of one image, (K, H, W)."""
    if len(logits) == 1:  # one class against the rest
        return (1 / (1 + np.exp(-logits[0])) > facts['score_threshold']).astype(np.uint8)
    return logits.argmax(axis=0).astype(np.uint8)


def colours(facts: dict) -> list[tuple[int, int, int]]:
    """One colour for each class."""
    palette = facts.get('palette')
    if isinstance(palette, list) and palette:
        return [tuple(colour) for colour in palette]
    return [tuple(int(37 * (i + 1) * k % 200 + 30) for k in (3, 5, 7)) for i in range(256)]


def main() -> None:
    """Predict."""
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('model', help='the .onnx file')
    parser.add_argument('image')
    parser.add_argument('--score-thr', type=float, default=0.3, help='default: %(default)s')
    parser.add_argument('--out', help='draw the predictions into this file')
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.model, providers=['CPUExecutionProvider'])
    facts = read_facts(session)
    original = Image.open(args.image).convert('RGB')
    image = resized(original, facts)
    outputs = session.run(None, {'images': as_input(image, facts)})
    names = [output.name for output in session.get_outputs()]
    drawn, palette = original.copy(), colours(facts)
    if names == ['boxes', 'scores']:
        found = detections(outputs[0][0], outputs[1][0], facts, args.score_thr)
        scale = np.tile(np.divide(original.size, image.size), 2)
        draw = ImageDraw.Draw(drawn)
        for box, score, label in zip(*found, strict=True):
            box = (box * scale).round(1).tolist()
            print(f'{facts["classes"][label]:20} {score:.3f}  {box}')
            draw.rectangle(box, outline=palette[label], width=2)
            draw.text((box[0] + 2, box[1] + 1), facts['classes'][label], fill=palette[label])
    elif names == ['logits']:
        labels = labels_of(outputs[0][0], facts)
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            print(f'{facts["classes"][label]:20} {count / labels.size:.1%} of the pixels')
        picture = Image.fromarray(np.uint8(palette)[labels]).resize(original.size, Image.NEAREST)
        drawn = Image.blend(drawn, picture, 0.5)
    else:
        print(f'the graph computes {facts["computes"]}:')
        for name, output in zip(names, outputs, strict=True):
            print(f'{name:24} {output.shape}')
    if args.out:
        drawn.save(args.out)


if __name__ == '__main__':
    main()
