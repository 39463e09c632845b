"""Stores of small trainings, and what a store would hold of a batch, for the tests beside this."""

import copy
import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from kd_dense.registry import MODELS
from kd_dense.store.dataset import FIELD
from kd_dense.store.kept import CANVAS, record_of
from kd_dense.store.view import stored_view
from kd_dense.store.write import write_store
from kd_dense.views import Batch, view_class
from tests.helpers.models import distiller, gfl
from tests.helpers.trainings import base_config

TEACHER = dict(config=gfl(channels=32, num_classes=10), untrained=True)
LD = dict(
    ld=dict(type='kd_dense.LocalizationDistillation', region='main'),
    vlr=dict(type='kd_dense.LocalizationDistillation', region='vlr'),
    cls=dict(type='kd_dense.SoftTargets', region='main', temperature=2, activation='softmax'),
)


def training(root: Path, work_dir: Path, losses: dict | None = None, **changes) -> Config:
    """A training of four steps on digits; pictures are flipped and resized at random."""
    config = base_config(root, work_dir)
    config['model'] = distiller(
        student=gfl(num_classes=10), teacher=copy.deepcopy(TEACHER), losses=losses or LD
    )
    config['train_dataloader']['dataset']['pipeline'][-1:] = [
        dict(type='RandomResize', scale=[(128, 128), (160, 160)], keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    config = Config(config)
    config.merge_from_dict(changes)
    return config


def write(config: Config, folder: Path, **options) -> None:
    """What ``kd-dense store-teacher`` does, in this process."""
    write_store(config, folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of records, and the manifest."""
    names = ('*.safetensors', '*.json', '*.txt')
    return {path.name: path.read_bytes() for name in names for path in folder.glob(name)}


def manifest(folder: Path) -> dict:
    return json.loads((folder / 'manifest.json').read_text())


def alone(batch: Batch, image: int, divisor: int = 32) -> Batch:
    """One picture of a batch, padded for itself alone."""
    height, width = batch.image_sizes()[image]
    up = [-(-side // divisor) * divisor for side in (height, width)]
    sample = copy.deepcopy(batch.samples[image])
    sample.set_metainfo(dict(batch_input_shape=tuple(up), pad_shape=tuple(up)))
    return Batch(batch.images[image : image + 1, :, : up[0], : up[1]], [sample])


def answer(batch, teacher, kept, chosen=None, singles=True):
    """Put into the samples of a batch what a store would hold of it."""
    for image, sample in enumerate(batch.samples):
        own = alone(batch, image) if singles else batch
        mask = None if chosen is None else chosen(image, own)
        record = record_of(view_class(teacher)(teacher, own, torch.no_grad), kept, mask)
        carried = BaseDataElement(
            metainfo=dict(what='it', differs=[], canvas=tuple(record.pop(CANVAS).tolist()))
        )
        for name, value in record.items():
            carried.set_field(value, name)
        sample.set_field(carried, FIELD)


def seen(batch, student, kept):
    """The view of a stored teacher."""
    return stored_view(type(student))(batch, student, kept, 'store')


def built(config: Config):
    return MODELS.build(copy.deepcopy(config.model))
