"""Validation images in pixels of their files, and what trained models see in them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import Compose
from mmengine.registry import DATASETS, DefaultScope

from ..errors import SetupError
from ..export import Plain, plain_config, read_plain
from ..export.plain import test_pipeline
from ..hosts import build_model
from ..hosts.configs import check_data
from ..pictures.draw import Classes
from ..pictures.overlays import nearest
from ..pictures.samples import (
    Result,
    Sample,
    annotated_labels,
    annotated_objects,
    classes_of,
    evenly,
    predict,
)
from .runs import Run


def read_samples(run: Run, plain: Plain, count: int) -> tuple[list[Sample], int, Classes]:
    """Read validation images of a run, spread evenly over its data set.

    Args:
        run: whose data to take.
        plain: its model and config.
        count: how many; all where there are fewer.

    Returns:
        the images, how many there are in the data set, and its classes.

    Raises:
        FileNotFoundError: the data is not there.
        SetupError: the run validates on nothing.
    """
    part = next((k for k in ('val_dataloader', 'test_dataloader') if run.config.get(k)), None)
    if part is None:
        raise SetupError(f'The config of {run.name} has no val_dataloader.')
    check_data(run.config, (part,))
    with DefaultScope.overwrite_default_scope(plain.scope):
        dataset = DATASETS.build(run.config[part]['dataset'])
        classes = classes_of(dataset, run.segments)
        chosen = evenly(len(dataset), count)
        masks = getattr(plain.model, 'with_mask', False)
        samples = [_read(dataset, place, classes, run.segments, masks) for place in chosen]
    return samples, len(dataset), classes


def _read(dataset: Any, index: int, classes: Classes, segments: bool, masks: bool) -> Sample:
    info = dataset.get_data_info(index)
    image = cv2.imread(str(info['img_path']), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f'The image {info["img_path"]} is not there, or cannot be read.')
    truth: Result
    if segments:
        labels = annotated_labels(dataset[index]['data_samples'], classes)
        truth = nearest(labels, image.shape[:2])
    else:
        truth = annotated_objects(info, masks)
    return Sample(Path(info['img_path']).name, np.ascontiguousarray(image[..., ::-1]), truth, info)


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


def model_input(plain: Plain, sample: Sample) -> dict[str, list]:
    """An image through a model's own test pipeline, as its ``test_step`` takes it."""
    with DefaultScope.overwrite_default_scope(plain.scope):
        steps = [s for s in test_pipeline(plain.config) if 'Annotations' not in str(s['type'])]
        data = Compose(steps)(copy.deepcopy(sample.data))
    return dict(inputs=[data['inputs']], data_samples=[data['data_samples']])


def see(plain: Plain, sample: Sample) -> Result:
    """What a model sees in an image, in pixels of its file."""
    with DefaultScope.overwrite_default_scope(plain.scope):
        found = predict(plain.model, model_input(plain, sample))
    if isinstance(found, np.ndarray):
        return nearest(found, sample.pixels.shape[:2])
    return found
