"""The embedded dataset through the stock readers of mmdet and mmseg, without code of ours."""

from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset, VOCDataset
from mmengine.registry import DefaultScope
from PIL import Image

from kd_dense.datasets import CLASSES

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]


def coco(digits_root, **annotations):
    load, annotated, pack = PIPELINE
    with DefaultScope.overwrite_default_scope('mmdet'):
        return CocoDataset(
            data_root=str(digits_root),
            ann_file='annotations/train.json',
            data_prefix=dict(img='VOC2007/JPEGImages/'),
            metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=False),
            pipeline=[load, annotated | annotations, pack],
        )


def test_the_mask_of_each_object_is_its_part_of_the_label_picture(digits_root):
    masks = 0
    for item in coco(digits_root, with_mask=True):
        sample = item['data_samples']
        name = Path(sample.img_path).stem
        picture = np.array(Image.open(digits_root / f'VOC2007/SegmentationClass/{name}.png'))
        drawn = np.zeros_like(picture)
        for mask, label in zip(sample.gt_instances.masks.masks, sample.gt_instances.labels,
                               strict=True):  # fmt: skip
            drawn[mask > 0] = label + 1
            masks += 1
        assert np.array_equal(drawn, picture)
    assert masks > 12


def test_coco_and_voc_readers_of_mmdet_find_the_same_objects(digits_root):
    with DefaultScope.overwrite_default_scope('mmdet'):
        voc = VOCDataset(
            data_root=str(digits_root),
            ann_file='VOC2007/ImageSets/Main/train.txt',
            data_prefix=dict(sub_data_root='VOC2007/'),
            metainfo=dict(classes=CLASSES),
            filter_cfg=dict(filter_empty_gt=False),
            pipeline=PIPELINE,
        )
    ours = coco(digits_root)
    assert len(voc) == len(ours) == 12
    by_name = {item['data_samples'].img_path.split('/')[-1]: item for item in ours}
    objects = 0
    for item in voc:
        other = by_name[item['data_samples'].img_path.split('/')[-1]]
        a, b = item['data_samples'].gt_instances, other['data_samples'].gt_instances
        rows = [
            sorted(zip(g.labels.tolist(), g.bboxes.tensor.tolist(), strict=True)) for g in (a, b)
        ]
        assert [label for label, _ in rows[0]] == [label for label, _ in rows[1]]
        if rows[0]:  # VOC counts inclusive pixels: up to one pixel of difference
            boxes = [np.array([box for _, box in row]) for row in rows]
            assert np.abs(boxes[0] - boxes[1]).max() <= 1
        objects += len(rows[0])
    assert objects > 12


def test_the_label_pictures_serve_mmseg(digits_root):
    from mmseg.datasets import BaseSegDataset

    classes = ('background', *CLASSES)
    with DefaultScope.overwrite_default_scope('mmseg'):
        labels = BaseSegDataset(
            data_root=str(digits_root / 'VOC2007'),
            ann_file='ImageSets/Segmentation/train.txt',
            data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
            img_suffix='.jpg',
            seg_map_suffix='.png',
            metainfo=dict(classes=classes, palette=[[i, i, i] for i in range(len(classes))]),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='PackSegInputs'),
            ],
        )
    assert len(labels) == 12
    detections = {i['data_samples'].img_path: i['data_samples'] for i in coco(digits_root)}
    seen = set()
    for item in labels:
        sample = item['data_samples']
        assert item['inputs'].shape[1:] == sample.gt_sem_seg.data.shape[1:] == (160, 160)
        found = set(sample.gt_sem_seg.data.unique().tolist()) - {0}
        objects = next(d for p, d in detections.items() if p.endswith(sample.img_path[-16:]))
        assert found == {label + 1 for label in objects.gt_instances.labels.tolist()}
        seen |= found
    assert len(seen) > 5
