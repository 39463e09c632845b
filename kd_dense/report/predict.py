"""Run models on validation images, in pixels of the files, whatever size each model sees."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.registry import DATASETS, DefaultScope

from ..errors import SetupError
from ..export import Plain, plain_config, read_plain
from ..export.plain import test_pipeline
from ..hosts import build_model
from ..hosts.configs import check_data
from .outcomes import Objects
from .runs import Run

Result = Objects | np.ndarray  # of a detector; of a segmentor the class of each pixel, (H, W)
IGNORED = 255


@dataclass(frozen=True)
class Picture:
    """One validation image.

    Attributes:
        name: of its file.
        pixels: (H, W, 3), uint8, RGB.
        truth: what was annotated.
        info: as the data set tells it, for pipelines.
    """

    name: str
    pixels: np.ndarray
    truth: Result
    info: dict[str, Any]


@dataclass(frozen=True)
class Pictures:
    """Validation images, spread evenly over the data set.

    Attributes:
        chosen: the images.
        total: how many there are in the data set.
        classes: names by index.
        palette: colours by index; empty where the data set has none.
    """

    chosen: list[Picture]
    total: int
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]


def read_pictures(run: Run, plain: Plain, count: int) -> Pictures:
    """Read validation images of a run.

    Args:
        run: whose data to take.
        plain: its model and config.
        count: how many; all where there are fewer.

    Raises:
        FileNotFoundError: the data is not there.
        SetupError: the run validates on nothing.
    """
    loader = run.config.get('val_dataloader') or run.config.get('test_dataloader')
    if loader is None:
        raise SetupError(f'The config of {run.name} has no val_dataloader.')
    part = 'val_dataloader' if run.config.get('val_dataloader') else 'test_dataloader'
    check_data(run.config, (part,))
    with DefaultScope.overwrite_default_scope(plain.scope):
        dataset = DATASETS.build(loader['dataset'])
        places = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
        chosen = [_picture(dataset, int(place), run.segments) for place in places]
    palette = dataset.metainfo.get('palette')
    palette = palette if isinstance(palette, list | tuple) else []
    classes = tuple(dataset.metainfo['classes'])
    return Pictures(chosen, len(dataset), classes, [tuple(colour) for colour in palette])


def _picture(dataset: Any, index: int, segments: bool) -> Picture:
    info = dataset.get_data_info(index)
    image = cv2.imread(str(info['img_path']), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f'The image {info["img_path"]} is not there, or cannot be read.')
    pixels = np.ascontiguousarray(image[..., ::-1])
    truth = _labels(dataset, index, pixels) if segments else _objects(info)
    return Picture(Path(info['img_path']).name, pixels, truth, info)


def _objects(info: dict) -> Objects:
    """The annotated boxes, in pixels of the file."""
    instances = info.get('instances', [])
    return Objects(
        np.array([each['bbox'] for each in instances], float).reshape(-1, 4),
        np.array([each['bbox_label'] for each in instances], int),
        ignored=np.array([each.get('ignore_flag', 0) for each in instances], bool),
    )


def _labels(dataset: Any, index: int, pixels: np.ndarray) -> np.ndarray:
    labels = dataset[index]['data_samples'].gt_sem_seg.data[0].numpy()
    return _at_size(labels, pixels.shape[:2])


def _at_size(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if labels.shape == tuple(size):
        return labels
    return cv2.resize(labels.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)


def read_model(run: Run) -> Plain:
    """The trained model of a run: of a distilled one, its student.

    Raises:
        FileNotFoundError: the run left no checkpoint.
        SetupError: the checkpoint does not fit.
    """
    if run.checkpoint is None:
        raise FileNotFoundError(f'no checkpoint lies in {run.folder}')
    return read_plain(run.config, str(run.checkpoint))


def without_weights(run: Run) -> Plain:
    """The model of a run that left no checkpoint, to count what it costs."""
    config = plain_config(run.config)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return Plain(build_model(config.model).eval(), config)


def model_input(plain: Plain, info: dict) -> dict[str, list]:
    """An image through a model's own test pipeline, as its ``test_step`` takes it."""
    with DefaultScope.overwrite_default_scope(plain.scope):
        steps = [s for s in test_pipeline(plain.config) if 'Annotations' not in str(s['type'])]
        data = Compose(steps)(copy.deepcopy(info))
    return dict(inputs=[data['inputs']], data_samples=[data['data_samples']])


def predict(plain: Plain, pictures: Sequence[Picture]) -> list[Result]:
    """What a model sees in images."""
    found = []
    with DefaultScope.overwrite_default_scope(plain.scope), torch.no_grad():
        for picture in pictures:
            sample = plain.model.test_step(model_input(plain, picture.info))[0]
            if 'pred_sem_seg' in sample:
                labels = sample.pred_sem_seg.data[0].cpu().numpy()
                found.append(_at_size(labels, picture.pixels.shape[:2]))
            else:
                objects = sample.pred_instances
                found.append(
                    Objects(
                        objects.bboxes.cpu().numpy().astype(float),
                        objects.labels.cpu().numpy(),
                        objects.scores.cpu().numpy().astype(float),
                    )
                )
    return found
