"""A few images of a data set, and what models see in them; one kind for each task."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..distiller import Distiller
from ..views import Batch
from .panel import Classes
from .sheet import Column


@dataclass(frozen=True)
class Image:
    """One image as the pipeline gives it.

    Attributes:
        name: its file.
        inputs: before any normalising, (3, H, W) in BGR, the order of mmdet and mmseg.
        sample: with what was annotated, in pixels of ``inputs``.
    """

    name: str
    inputs: Tensor
    sample: BaseDataElement

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3), uint8, RGB."""
        image = self.inputs.permute(1, 2, 0).clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(image.numpy()[..., ::-1])

    def batch(self, model: nn.Module, training: bool = False) -> Batch:
        """The image alone, preprocessed as the model wants it for predicting or for training."""
        data = {'inputs': [self.inputs], 'data_samples': [copy.deepcopy(self.sample)]}
        data = model.data_preprocessor(data, training)
        return Batch(data['inputs'], data['data_samples'])


class Gallery:
    """A few images of a data set, and what models see in them.

    Args:
        dataset: of mmdet or mmseg.
        count: how many images, spread evenly, or all where there are fewer.
        evaluation: whether the data set's pipeline is one for evaluation.
        score_thr: objects that are surer than this are shown.

    Attributes:
        images: the images.
        classes: of the data set.
    """

    def __init__(
        self, dataset: BaseDataset, count: int, evaluation: bool = True, score_thr: float = 0.3
    ) -> None:
        self.images: list[Image] = self.choose(dataset, count, evaluation)
        self.classes = self.read_classes(dataset)
        self.score_thr = score_thr

    def choose(self, dataset: BaseDataset, count: int, evaluation: bool) -> list[Image]:
        """Choose images, with what was annotated."""
        raise NotImplementedError

    def read_classes(self, dataset: BaseDataset) -> Classes:
        """The classes of a data set."""
        return Classes(tuple(dataset.metainfo.get('classes') or ()))

    def annotated(self) -> list[Column]:
        """The images and what was annotated in them."""
        raise NotImplementedError

    def predicted(self, title: str, model: nn.Module) -> Column:
        """What a model predicts, by its own preprocessing; it is left in eval mode."""
        raise NotImplementedError

    def focus_columns(self, distiller: Distiller) -> list[Column]:
        """What the losses look at; to be called on all ranks, models are left in eval mode."""
        raise NotImplementedError


def spread(dataset: BaseDataset, count: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Index, file name and data of samples spread evenly over a data set."""
    for index in np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist():
        data = dataset[index]
        path = data['data_samples'].metainfo.get('img_path', f'image {index}')
        yield index, Path(path).name, data


def describe(model: nn.Module) -> str:
    """A model in a few words: ``GFL, ResNet-18, 19.1 M parameters``."""
    # segmentors are all called alike, their heads are not
    name = type(getattr(model, 'decode_head', model)).__name__
    backbone = getattr(model, 'backbone', None)
    depth = getattr(backbone, 'depth', None)
    trunk = type(backbone).__name__ + ('' if depth is None else f'-{depth}')
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return f'{name}, {trunk}, {millions:.3g} M parameters'
