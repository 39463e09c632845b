"""The image on which an ONNX file and its model are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from torch import Tensor

from ..plain import Plain, test_pipeline
from .predict_onnx import as_input

Batch = dict[str, list]  # of one image, as a data loader gives it


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


def graph_input(example: Batch, facts: dict[str, Any]) -> Tensor:
    """What a graph with these facts in its metadata is fed with, (1, 3, H, W)."""
    rgb = example['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1].astype(np.uint8)
    return torch.from_numpy(as_input(Image.fromarray(np.ascontiguousarray(rgb)), facts))
