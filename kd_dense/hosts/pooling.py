"""Let a teacher pool its proposals exactly in half precision or channels-last, and fast."""

from __future__ import annotations

from typing import Any

from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from torch import Tensor, nn


def pool_in_float32(model: nn.Module) -> None:
    """Have every RoI extractor pool contiguous features in single precision.

    mmcv's RoIAlign takes memory as it lies for (N, C, H, W), knows no bfloat16, and mmdet brings
    proposals to the type of the features, in which half precision misses them by whole pixels.
    What follows an extractor gets its input in its own precision.

    On CPU, RoIAlign itself is torchvision's, which mmcv offers as a switch: it returns the very
    same numbers in a third of the time. (On GPUs it would be slow where determinism is asked for.)

    Args:
        model: any model; those without extractors are left as they are.
    """
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is None:
        return
    for module in roi_head.modules():
        if isinstance(module, BaseRoIExtractor):
            module.register_forward_pre_hook(_exact_features)
    for child in roi_head.children():
        if not isinstance(child, BaseRoIExtractor) and any(True for _ in child.parameters()):
            child.register_forward_pre_hook(_own_precision)


def _exact_features(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    features, *rest = inputs
    on_cpu = features[0].device.type == 'cpu'
    for layer in module.modules():
        if isinstance(layer, RoIAlign):
            layer.use_torchvision = on_cpu and layer.pool_mode == 'avg'
    return (tuple(f.float().contiguous() for f in features), *rest)


def _own_precision(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(module.parameters()).dtype
    return tuple(
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs
    )
