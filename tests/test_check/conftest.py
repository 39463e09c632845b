"""Configs of a healthy detection and segmentation, and their examination without timing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from kd_dense.check import Line, Report, examine
from kd_dense.datasets import CLASSES
from kd_dense.hosts import build_model, read_model_config
from tests.helpers import segmentation
from tests.helpers.models import gfl
from tests.helpers.trainings import base_config, shapes_config

TEACHER = gfl(channels=32, num_classes=10)


def save(path: Path, config: dict, **meta: Any) -> Path:
    """A checkpoint of a model, of random weights, with what trainings write beside them."""
    torch.manual_seed(1)
    model = build_model(read_model_config(config, 'teacher'))
    model.init_weights()
    text = Config(dict(model=config)).pretty_text
    meta = dict(dataset_meta=dict(classes=CLASSES), cfg=text) | meta
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture
def detection(digits_root, tmp_path) -> Callable[..., Config]:
    """Make the config of a healthy detection; keywords are merged into its ``model``."""

    def make(**model: Any) -> Config:
        config = base_config(digits_root, tmp_path / 'work')
        checkpoint = save(tmp_path / 'teacher.pth', TEACHER)
        config['model']['teacher'] = dict(config=TEACHER, checkpoint=str(checkpoint))
        config['model']['losses'] = dict(
            ld=dict(type='kd_dense.LocalizationDistillation', region='main', weight=0.25),
            imitation=dict(type='kd_dense.FeatureImitation', region='all', weight=0.1),
        )
        config = Config(config)
        config.merge_from_dict(dict(model=model))
        return config

    return make


@pytest.fixture
def segmenting(tmp_path) -> Callable[..., Config]:
    """The same of a segmentation."""

    def make(**model: Any) -> Config:
        config = shapes_config(tmp_path / 'shapes', tmp_path / 'work')
        teacher = segmentation.segmentor(width=16)
        meta = dict(dataset_meta=dict(classes=segmentation.CLASSES))
        checkpoint = save(tmp_path / 'teacher.pth', teacher, **meta)
        config['model']['teacher'] = dict(config=teacher, checkpoint=str(checkpoint))
        config = Config(config)
        config.merge_from_dict(dict(model=model))
        return config

    return make


def check(config: Config, **options: Any) -> Report:
    """Examine a config, by default without timing."""
    return examine(config, 'config.py', **dict(steps=0) | options)


def the_line(report: Report, section: str, item: str) -> Line:
    """The one line of an item."""
    (found,) = (
        line
        for each in report.sections
        if each.title == section
        for line in each.lines
        if line.item == item
    )
    return found


def found(report: Report) -> list[tuple[str, str, str]]:
    """(mark, section, item) of all findings."""
    return [
        (line.mark, section.title, line.item)
        for section in report.sections
        for line in section.findings()
    ]


def class_only(model: nn.Module, index: int) -> dict[str, torch.Tensor]:
    """Weights of a segmentor that sees one class everywhere."""
    state = model.state_dict()
    state['decode_head.conv_seg.weight'].zero_()
    state['decode_head.conv_seg.bias'].copy_(torch.eye(len(segmentation.CLASSES))[index])
    return state
