"""Fold batch norms into the convolutions before them, where that changes nothing."""

from __future__ import annotations

import copy

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.logging import print_log
from torch import Tensor, nn

from ..views import Batch, view_class


def fold_batch_norms(model: nn.Module) -> None:
    """Fold each part of a model whose outputs stay equal; a part that would change stays as it was.

    Args:
        model: in evaluation mode; is changed.
    """
    for name in view_class(model).parts:
        part = getattr(model, name, None)
        if part is None:
            continue
        # mmcv folds by the order in which layers were registered, which need not be the order in
        # which they run: so each part proves itself on a picture, and else stays as it was
        before = _outputs(model)
        setattr(model, name, copy.deepcopy(part))
        try:
            fuse_conv_bn(getattr(model, name))
            after = _outputs(model)
        except (RuntimeError, TypeError, AttributeError):  # layers that do not belong together
            after = []
        if len(after) != len(before) or not all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
            for a, b in zip(after, before, strict=True)
        ):
            setattr(model, name, part)
            print_log(f"The batch norms of the teacher's {name} cannot be folded.", 'current')


def _outputs(model: nn.Module) -> list[Tensor]:
    """Features and logits for a fixed small noise picture."""
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 4 - 2
    device = next(model.parameters()).device
    return view_class(model)(model, Batch(noise.to(device), []), torch.no_grad).outputs()
