"""Configs of real trainings of tiny distillers, a few steps long."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from kd_dense.datasets import CLASSES
from kd_dense.registry import HOOKS
from tests.helpers import segmentation
from tests.helpers.models import distiller, free_port, gfl, losses
from tests.helpers.processes import ROOT, run, run_ranks

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


def write_shapes(root: Path, split: str, count: int, size: tuple[int, int]) -> None:
    """Discs and squares as PNG images and label PNGs, some pixels ignored."""
    data = segmentation.raw_batch((size,) * count, seed=len(split))
    for index in range(count):
        for folder, picture in (
            ('images', data['inputs'][index].permute(1, 2, 0)),
            ('labels', data['data_samples'][index].gt_sem_seg.data[0]),
        ):
            path = root / folder / split / f'{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture.numpy().astype(np.uint8))


def shapes_config(root: Path, work_dir: Path) -> dict:
    """Segmentation: 4 steps of 2 images; those for evaluation are enlarged, their labels not."""
    for split, count, size in (('train', 6, (64, 64)), ('val', 4, (48, 64))):
        write_shapes(root, split, count, size)
    load, labels = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
    pack = dict(type='PackSegInputs')
    enlarge = dict(type='Resize', scale=(96, 72), keep_ratio=True)

    def loader(split: str, pipeline: list[dict], shuffle: bool) -> dict:
        return dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler' if shuffle else 'DefaultSampler', shuffle=shuffle),
            dataset=dict(
                type='BaseSegDataset',
                metainfo=dict(
                    classes=segmentation.CLASSES,
                    palette=[[40, 40, 60], [230, 60, 60], [60, 140, 230]],
                ),
                data_root=f'{root}/',
                img_suffix='.png',
                data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
                pipeline=pipeline,
            ),
        )

    return base_config(root, work_dir) | dict(
        default_scope='mmseg',
        model=segmentation.distiller(
            dict(
                pixel=dict(type='kd_dense.PixelWise'),
                pair=dict(type='kd_dense.PairWise', pooling_scale=0.25),
                holistic=dict(type='kd_dense.Holistic', width=(8, 8, 16, 16)),
            )
        ),
        train_dataloader=loader('train', [load, labels, pack], shuffle=True),
        val_dataloader=loader('val', [load, enlarge, labels, pack], shuffle=False),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        optim_wrapper=dict(
            constructor='kd_dense.AdversarialOptimWrapperConstructor',
            student=dict(optimizer=dict(type='AdamW', lr=0.01)),
            discriminator=dict(optimizer=dict(type='Adam', lr=4e-4)),
        ),
    )


# -- through a runner --------------------------------------------------------------------------


def short_training(name: str, work_dir: Path) -> Config:
    """A shipped config on a few images: 6 steps of 2, a checkpoint every second step."""
    config = Config.fromfile(ROOT / 'configs' / name)
    config.merge_from_dict(
        {
            'work_dir': str(work_dir),
            'train_cfg.max_iters': 6,
            'train_cfg.val_interval': 100,
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.checkpoint.max_keep_ckpts': 10,
            'randomness.seed': 3,
            'log_level': 'WARNING',
        }
    )
    config.custom_imports.imports.append('tests.helpers.trainings')  # for the hooks below
    config.custom_hooks = [
        dict(type='kd_dense.StudentCheckpointHook'),
        dict(type='kd_dense.RandomStateHook'),
    ]
    return config


def training(digits_root: Path, work_dir: Path) -> Config:
    """A short training of a small detector on digits."""
    os.environ['DIGITS_ROOT'] = str(digits_root)
    config = short_training('digits/ld_gfl_r18-quarter_digits.py', work_dir)
    config.model = distiller(
        student=gfl(num_classes=10),
        teacher=dict(config=gfl(channels=32, num_classes=10), untrained=True),
    )
    return config


def train(config: Config) -> Runner:
    """Train in this process."""
    # mmengine keeps runners' helpers by name: a second training in a process wants its own
    config.experiment_name = config.visualizer.name = Path(config.work_dir).name + str(id(config))
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def train_apart(config: Config, *options: str, ranks: int = 1) -> subprocess.CompletedProcess:
    """Train in a process of its own, or in several."""
    file = Path(f'{config.work_dir}.py')
    config.dump(file)
    words = ('tools/train.py', file, *options)
    return run_ranks(ranks, *words, port=free_port()) if ranks > 1 else run(*words)


def train_by_script(config: Config, ranks: int) -> subprocess.CompletedProcess:
    """Train in several processes, as a user starts them."""
    file = Path(f'{config.work_dir}.py')
    config.dump(file)
    environment = dict(PORT=free_port(), PYTHON=sys.executable, PYTHONPATH=str(ROOT))
    return subprocess.run(
        ['tools/dist_train.sh', str(file), str(ranks)],
        cwd=ROOT,
        env=os.environ | environment | dict(OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )


def state(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=False)


def assert_same(a: object, b: object, where: str = '') -> None:
    """Bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f'{where}[{i}]')
    else:
        assert a == b, where


@HOOKS.register_module(name='KillAt')
class KillAt(Hook):
    """Kill the process the hard way in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.iter == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module(name='SaveOfEachRank')
class SaveOfEachRank(Hook):
    """Each rank writes its weights at the end."""

    def after_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        torch.save(model.state_dict(), Path(runner.work_dir, f'rank_{runner.rank}.pt'))
