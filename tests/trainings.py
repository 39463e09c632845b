"""Configs of real trainings of tiny distillers, a few steps long."""

import itertools
from pathlib import Path

import cv2
import numpy as np

from kd_dense.datasets import CLASSES
from tests import segmentation
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
