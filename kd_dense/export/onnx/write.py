"""Write a student as an ONNX file that says all that its user has to know."""

from __future__ import annotations

import copy
import importlib
import json
import warnings
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model.utils import revert_sync_batchnorm
from torch import Tensor, nn

from ...errors import SetupError
from ...teachers.renormalize import preprocessing_of
from ..plain import Plain, test_pipeline
from .base import Graph, channel_order
from .graphs import SegmentationGraph, graph_of

# what onnxruntime runs everywhere, and has RoIAlign as mmdet has it
OPSET = 17
# by tracing, all that older torch knows; the exporter by torch.export needs two more packages
TRACE = {'dynamo': False} if 'dynamo' in signature(torch.onnx.export).parameters else {}


def need_onnx() -> None:
    """Check that ONNX can be written and run.

    Raises:
        SetupError: a package is missing.
    """
    for name in ('onnx', 'onnxruntime'):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SetupError(
                f'--onnx needs the package {name}, which is not here ({error}): '
                # without the version, pip may bring a numpy that the torch here was not made for
                f"pip install 'kd_dense[export]' 'numpy=={np.__version__}'."
            ) from error


class AdaptivePool(nn.Module):
    """``AdaptiveAvgPool2d`` as two matrix products, so that a graph takes images of any size.

    Args:
        size: height and width of what comes out; None keeps a side.
    """

    def __init__(self, size: tuple[int | None, int | None]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Average over the windows that torch averages over."""
        rows, columns = (
            _windows(length, count, x)
            for length, count in zip(x.shape[-2:], self.size, strict=True)
        )
        return rows @ x @ columns.transpose(0, 1)


def _windows(length: int, count: int | None, like: Tensor) -> Tensor:
    """The averages over ``count`` windows of a line as a matrix, (count, length)."""
    position = torch.arange(length, device=like.device)
    window = torch.arange(length if count is None else count, device=like.device)
    number = length if count is None else count
    begin = torch.div(window * length, number, rounding_mode='floor')
    end = torch.div((window + 1) * length + number - 1, number, rounding_mode='floor')
    inside = (position[None] >= begin[:, None]) & (position[None] < end[:, None])
    inside = inside.to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def for_any_size(model: nn.Module) -> nn.Module:
    """Replace pools and mmseg's upsampling, whose sizes a traced graph would keep, in place."""
    for module in model.modules():
        for name, child in list(module.named_children()):
            mmsegs = type(child).__module__.startswith('mmseg.')
            if isinstance(child, nn.AdaptiveAvgPool2d):
                size = child.output_size
                size = tuple(size) if isinstance(size, tuple | list) else (size, size)
                setattr(module, name, AdaptivePool(size))
            elif mmsegs and type(child).__name__ == 'Upsample' and not child.size:
                options = dict(mode=child.mode, align_corners=child.align_corners)
                setattr(module, name, nn.Upsample(scale_factor=child.scale_factor, **options))
    return model


def write_onnx(plain: Plain, path: Path, example: Tensor, normalize: bool = True) -> Graph:
    """Write a student's graph with its metadata.

    Args:
        plain: the student.
        path: of the file.
        example: an input to trace with, (1, 3, H, W).
        normalize: see :class:`~kd_dense.export.onnx.base.Graph`.

    Returns:
        what was written, as a torch module.

    Raises:
        SetupError: the model has something that ONNX has no name for.
    """
    model = revert_sync_batchnorm(copy.deepcopy(plain.model)).eval().requires_grad_(False)
    graph = graph_of(for_any_size(model), normalize)
    axes = {0: 'batch'} if graph.any_batch else {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # traced sizes; the check at another size catches harm
        try:
            torch.onnx.export(
                graph,
                (example,),
                str(path),
                **TRACE,
                opset_version=OPSET,
                input_names=['images'],
                output_names=list(graph.outputs),
                dynamic_axes={'images': axes | {2: 'height', 3: 'width'}, **graph.outputs},
            )
        except RuntimeError as error:  # operators without a symbol are one
            path.unlink(missing_ok=True)
            reason = str(error).strip().splitlines()[0]
            raise SetupError(
                f'{type(model).__name__} could not be written as ONNX ({reason}). Leave --onnx '
                'out; the checkpoint and its config are written all the same.'
            ) from error
    _add_facts(path, facts(plain, graph))
    return graph


def facts(plain: Plain, graph: Graph) -> dict[str, Any]:
    """What the user of a graph has to know; each is written as JSON into its metadata."""
    preprocessing = preprocessing_of(plain.model.data_preprocessor)
    order = channel_order(plain.model)
    images = 'RGB images from 0 to 255' if graph.normalize else f'normalised {order} images'
    known = dict(
        computes=graph.kind,
        takes=f'{images} in float32, (batch, 3, height, width), of any size',
        normalization='inside' if graph.normalize else 'outside',
        channel_order=order,
        mean=preprocessing.mean.tolist(),
        std=preprocessing.std.tolist(),
        pad_divisor=graph.divisor,
        resize=test_resize(plain),
        classes=list(plain.dataset_meta['classes']),
        palette=plain.dataset_meta.get('palette'),
        config=str(plain.meta['made_by'].get('config')),
        made_by=plain.meta['made_by'],
        kd_dense_version=plain.meta['kd_dense_version'],
        missing=_missing(plain.model, graph),
        **_thresholds(plain.model, graph),
    )
    return {key: value for key, value in known.items() if value is not None and value != ''}


def _missing(model: nn.Module, graph: Graph) -> str:
    """What the graph leaves out, in words."""
    mode = model.test_cfg.get('mode', 'whole') if isinstance(graph, SegmentationGraph) else 'whole'
    slides = '' if mode == 'whole' else f'the model is tested in {mode!r} mode, this graph is whole'
    return graph.missing or slides


def _thresholds(model: nn.Module, graph: Graph) -> dict[str, Any]:
    """What turns the outputs into predictions, as the model's test configuration has it."""
    if isinstance(graph, SegmentationGraph):
        head = model.decode_head
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        return dict(score_threshold=getattr(head, 'threshold', None))
    settings = model.test_cfg or {}
    settings = settings.get('rcnn', settings)
    nms = settings.get('nms') or {}
    return dict(
        score_threshold=settings.get('score_thr', 0.0),
        nms_type=nms.get('type', 'nms'),
        nms_iou_threshold=nms.get('iou_threshold', 0.5),
        nms_class_agnostic=bool(nms.get('class_agnostic', False)),
        max_per_image=settings.get('max_per_img', 100),
        min_box_size=settings.get('min_bbox_size', -1),
    )


def test_resize(plain: Plain) -> dict[str, Any] | None:
    """How images are resized in testing, ``scale`` as width and height; None where they are not."""
    for step in test_pipeline(plain.config):
        if str(step.get('type')).rsplit('.', 1)[-1] == 'Resize' and step.get('scale'):
            scale = step['scale']
            scale = [scale, scale] if isinstance(scale, int) else list(scale)
            return dict(scale=scale, keep_ratio=bool(step.get('keep_ratio', False)))
    return None


def _add_facts(path: Path, known: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in known.items()})
    model.producer_name = 'kd_dense'
    model.doc_string = f'{known["computes"]}; takes {known["takes"]}'
    onnx.checker.check_model(model)
    onnx.save(model, path)
