"""Does an ONNX file compute what the model computes? Run both on images, and compare."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.models.detectors import TwoStageDetector
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor

from ...errors import SetupError
from ..plain import Plain, test_pipeline
from .base import Batch, Graph, graph_input
from .graphs import DenseGraph, SegmentationGraph
from .predict_onnx import detections, labels_of, read_facts
from .rois import TwoStageGraph

SURE = 0.05  # detections above this have to be found again


@dataclass(frozen=True)
class Deviation:
    """How far ONNX and torch are apart in one respect.

    Attributes:
        what: an output or a count, in words.
        largest: the largest absolute difference.
        allowed: what it may be.
    """

    what: str
    largest: float
    allowed: float

    @property
    def fine(self) -> bool:
        """Whether it is small enough."""
        return self.largest <= self.allowed

    def __str__(self) -> str:
        mark = 'ok' if self.fine else 'TOO LARGE'
        return f'{self.what:58} {self.largest:9.2g}  (allowed {self.allowed:.2g})  {mark}'


def find_example(
    plain: Plain, image: str | None, size: tuple[int, int] | None
) -> tuple[Batch, str]:
    """The image to compare on, through the test pipeline, and where it comes from, in words.

    Args:
        plain: the student.
        image: a file; None takes the first of the test data, or noise where there is none.
        size: height and width to bring it to; None leaves what the test pipeline gives.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if image is not None and not Path(image).is_file():
        raise FileNotFoundError(f'There is no image {image} (looked from {Path.cwd()}).')
    with DefaultScope.overwrite_default_scope(plain.scope):
        source = image
        if image is None:
            image = _first_test_image(plain)
            source = None if image is None else f'{image} (the first of the test data)'
        steps = [s for s in test_pipeline(plain.config) if 'Annotations' not in str(s['type'])]
        data = dict(img_id=0, img_path=image, seg_fields=[], reduce_zero_label=False)
        if image is None:
            height, width = size or (256, 320)
            noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
            source = 'noise: no --image was given, and the test data is not there'
            data |= dict(img=noise, img_shape=(height, width), ori_shape=(height, width))
            steps = [step for step in steps if 'LoadImage' not in str(step['type'])]
        if size is not None:
            steps = [step for step in steps if not str(step['type']).endswith('Resize')]
            resize = dict(type='mmcv.Resize', scale=(size[1], size[0]), keep_ratio=False)
            steps = [*steps[:-1], resize, steps[-1]]
        packed = Compose(steps)(data)
    return dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]), source


def _first_test_image(plain: Plain) -> str | None:
    dataset = (plain.config.get('test_dataloader') or {}).get('dataset')
    if dataset is None:
        return None
    try:
        first = DATASETS.build(dataset).get_data_info(0)
    except (FileNotFoundError, AssertionError, IndexError):
        return None
    path = first.get('img_path')
    return path if path and Path(path).is_file() else None


def compare(
    plain: Plain, graph: Graph, path: Path, example: Batch, tolerance: float
) -> list[Deviation]:
    """Run the file with onnxruntime and the model with torch.

    The outputs are compared on the example and, as traced graphs may have taken a size for a
    constant, on a smaller one, and on two images at once; the predictions on the example.

    Args:
        plain: the student, as mmdet or mmseg runs it.
        graph: what was written, as a torch module.
        path: of the file.
        example: the image.
        tolerance: what an output may differ by, of its largest value, and at least by this.

    Raises:
        SetupError: a difference is too large.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    found = []
    facts = read_facts(session)
    images = graph_input(example, facts)
    if not isinstance(graph, TwoStageGraph):  # whose rows may change places where scores tie
        for what, batch in _batches(graph, images):
            ours = session.run(None, {'images': batch.numpy()})
            with torch.no_grad():
                theirs = graph(batch)
            found += _apart(what, graph, theirs, ours, tolerance)
    with DefaultScope.overwrite_default_scope(plain.scope):
        if isinstance(graph, DenseGraph | TwoStageGraph):
            found += _detections_apart(plain, session, facts, images, example, tolerance)
        elif isinstance(graph, SegmentationGraph):
            found += _labels_apart(plain, session, facts, images, example)
    wrong = [each for each in found if not each.fine]
    if wrong:
        raise SetupError(
            f'The ONNX file {path} does not compute what the model computes: {wrong[0].what} is '
            f'off by {wrong[0].largest:.2g}, {wrong[0].allowed:.2g} is allowed. Do not use it as '
            'it is; --tolerance allows more, and --image another image, where the difference '
            'comes from rounding.'
        )
    return found


def _batches(graph: Graph, images: Tensor) -> list[tuple[str, Tensor]]:
    height, width = images.shape[-2:]
    part = images[..., : max(height // 2, 1), : max(width * 3 // 4, 1)].contiguous()
    batches = [('the image', images), ('a part of it', part)]
    if graph.any_batch:
        batches.append(('two images', torch.cat([images, images.flip(-1)])))
    return batches


def _apart(
    what: str, graph: Graph, theirs: tuple[Tensor, ...], ours: list[np.ndarray], tolerance: float
) -> list[Deviation]:
    found = []
    for name, a, b in zip(graph.outputs, theirs, ours, strict=True):
        if tuple(a.shape) != b.shape:
            raise SetupError(
                f'The ONNX file returns {name} of shape {b.shape} for {what}, the model '
                f'{tuple(a.shape)}: the export took a size for a constant. Export with --size of '
                'the images it will be used on, and feed it no other.'
            )
        largest = float((a - torch.from_numpy(b)).abs().max())
        allowed = tolerance * max(1.0, float(a.abs().max()))
        found.append(Deviation(f'{name} on {what} {tuple(a.shape)}', largest, allowed))
    return found


def _detections_apart(
    plain: Plain, session: Any, facts: dict, images: Tensor, example: Batch, tolerance: float
) -> list[Deviation]:
    """mmdet's own detections against those of the file after its user's suppression."""
    model = plain.model
    data = model.data_preprocessor(copy.deepcopy(example), False)
    with torch.no_grad():
        if isinstance(model, TwoStageDetector):
            samples = model.predict(data['inputs'], data['data_samples'], rescale=False)
            theirs = samples[0].pred_instances
        else:
            # among all boxes, as a graph's user suppresses: mmdet takes only the `nms_pre` best of
            # each level, which is faster and rarely matters
            head, metas = model.bbox_head, [each.metainfo for each in data['data_samples']]
            settings = ConfigDict(head.test_cfg, nms_pre=10**9)
            maps = head(model.extract_feat(data['inputs']))
            theirs = head.predict_by_feat(*maps, batch_img_metas=metas, cfg=settings)[0]
    boxes, scores = session.run(None, {'images': images.numpy()})
    ours = detections(boxes[0], scores[0], facts)
    sure = max(SURE, facts['score_threshold'])
    lost, apart, points = 0, 0.0, 0.0
    order = theirs.scores > sure + tolerance
    for box, score, label in zip(
        theirs.bboxes[order].numpy(), theirs.scores[order], theirs.labels[order], strict=True
    ):
        same = np.flatnonzero(ours[2] == int(label))
        far = np.abs(ours[0][same] - box).max(axis=1, initial=0.0)
        if not len(same) or far.min() > 1:
            lost += 1
            continue
        apart = max(apart, float(far.min()))
        points = max(points, abs(float(ours[1][same[far.argmin()]] - score)))
    count = int(order.sum())
    side = float(max(images.shape[-2:]))
    return [
        Deviation(f"mmdet's {count} detections above {sure:g}: not found again", lost, 0),
        Deviation('their boxes, in pixels', apart, tolerance * side),
        Deviation('their scores', points, tolerance),
    ]


def _labels_apart(
    plain: Plain, session: Any, facts: dict, images: Tensor, example: Batch
) -> list[Deviation]:
    """The share of pixels whose class is another than mmseg's own."""
    data = plain.model.data_preprocessor(copy.deepcopy(example), False)
    metas = [sample.metainfo for sample in data['data_samples']]
    with torch.no_grad():
        logits = plain.model.encode_decode(data['inputs'], metas)[0]
    height, width = images.shape[-2:]
    theirs = labels_of(logits[:, :height, :width].numpy(), facts)
    ours = session.run(None, {'images': images.numpy()})[0][0][:, :height, :width]
    other = float((labels_of(ours, facts) != theirs).mean())
    return [Deviation("share of pixels of another class than mmseg's", other, 1e-3)]
