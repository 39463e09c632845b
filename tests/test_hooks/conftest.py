"""Real trainings of a tiny distiller, a few steps long."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from kd_dense.datasets import CLASSES
from tests.models import distiller, gfl, losses

COUNTER = itertools.count()  # of experiments: mmengine shares messages between equal names


def dataset(root: Path, split: str, pipeline: list[dict]) -> dict:
    return dict(
        type='CocoDataset',
        data_root=f'{root}/',
        metainfo=dict(classes=CLASSES),
        ann_file=f'annotations/{split}.json',
        data_prefix=dict(img='VOC2007/JPEGImages/'),
        filter_cfg=dict(filter_empty_gt=False),
        test_mode=split == 'val',
        pipeline=pipeline,
    )


def base_config(root: Path, work_dir: Path) -> dict:
    load, boxes = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)
    evaluation = [load, dict(type='Resize', scale=(128, 128), keep_ratio=True), boxes]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    return dict(
        default_scope='mmdet',
        custom_imports=dict(imports=['kd_dense', 'kd_dense.hooks'], allow_failed_imports=False),
        model=distiller(
            student=gfl(num_classes=10),
            teacher=dict(config=gfl(channels=32, num_classes=10), untrained=True),
            losses=losses(ld=0.25, imitation=0.1),
        ),
        work_dir=str(work_dir),
        experiment_name=f'test_{next(COUNTER)}',
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=dataset(root, 'train', [load, boxes, dict(type='PackDetInputs')]),
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=3),
        val_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dataset(root, 'val', [*evaluation, dict(type='PackDetInputs', meta_keys=keys)]),
        ),
        val_evaluator=dict(type='CocoMetric', ann_file=f'{root}/annotations/val.json'),
        val_cfg=dict(),
    )


@pytest.fixture
def training(digits_root, tmp_path) -> Callable[..., Runner]:
    """Make the runner of 4 steps of 2 images; keywords replace parts of its config.

    ``validate=False`` leaves validation out, ``work_dir`` names a folder below the test's own,
    ``hooks`` are registered as they are.
    """

    def make(validate: bool = False, work_dir: str = 'work', hooks=(), **changes) -> Runner:
        config = base_config(digits_root, tmp_path / work_dir)
        if not validate:
            for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
                del config[key]
        model = changes.pop('model', {})
        config['model'].update(model)
        runner = Runner.from_cfg(Config(config | changes))
        for hook in hooks:
            runner.register_hook(hook)
        return runner

    return make
