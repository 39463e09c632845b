"""Mixed precision without a GPU: mmengine's wrapper refuses to train in bfloat16 on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.bbox_heads.bbox_head import BBoxHead
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from .registry import OPTIM_WRAPPERS

OPERATORS = (DeformConv2d, ModulatedDeformConv2d, BaseRoIExtractor)  # mmcv's, without bfloat16
HEADS = (BaseDenseHead, BBoxHead)
CLASSIFIER = 'conv_seg'  # of a segmentor's head, which mmseg runs without calling it as a module


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """An optimizer wrapper that trains under torch's autocast to bfloat16, on CPUs too.

    Weights, gradients and the optimizer stay in float32. bfloat16 has float32's range, so that no
    loss is scaled. What heads predict leaves them in float32, for the losses and for operators of
    mmcv that know no bfloat16.

    Args:
        kwargs: of :class:`mmengine.optim.OptimWrapper`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._prepared: set[int] = set()
        if not torch.cuda.is_available() and not fast_bfloat16():
            print_log(
                'This processor has no instructions for bfloat16: mixed precision may well be '
                'slower than float32.',
                'current',
                logging.WARNING,
            )

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of a step's forward pass.

        Args:
            model: that is trained.
        """
        if id(model) not in self._prepared:
            self._prepared.add(id(model))
            prepare(model)
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


def fast_bfloat16() -> bool:
    """Whether the processor computes in bfloat16; True where torch cannot tell."""
    known = getattr(torch.cpu, '_is_avx512_bf16_supported', None)
    return known is None or known() or torch.backends.cpu.get_cpu_capability() == 'DEFAULT'


def prepare(model: nn.Module) -> None:
    """Let the predictions of a model's heads, and mmcv's operators, be in float32."""
    for name, module in model.named_modules():
        if isinstance(module, OPERATORS):
            module.register_forward_pre_hook(lambda _, inputs: _single(inputs))
        elif isinstance(module, HEADS) or name.split('.')[-1] == CLASSIFIER:
            module.register_forward_hook(lambda _, inputs, outputs: _single(outputs))


def _single(value: Any) -> Any:
    """The same in float32, through lists and tuples."""
    if isinstance(value, list | tuple):
        return type(value)(_single(each) for each in value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value
