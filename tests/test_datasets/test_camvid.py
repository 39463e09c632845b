"""CamVid through mmseg: classes, colours, ignored pixels, and a sentence where mmseg is missing."""

import importlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, DefaultScope

from kd_dense.datasets.camvid import CamVidDataset
from kd_dense.errors import SetupError

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]


@pytest.fixture
def camvid_root(tmp_path):
    """Two frames to train on and one to validate on; their labels count up, 255 in a corner."""
    for split, count in (('train', 2), ('val', 1)):
        for folder in ('images', 'labels'):
            (tmp_path / folder / split).mkdir(parents=True)
        for index in range(count):
            image = np.full((12, 16, 3), 40 * index + 10, np.uint8)
            label = (np.arange(12 * 16) % 11).astype(np.uint8).reshape(12, 16)
            label[:3, :4] = 255
            cv2.imwrite(str(tmp_path / f'images/{split}/{split}_{index}.jpg'), image)
            cv2.imwrite(str(tmp_path / f'labels/{split}/{split}_{index}.png'), label)
    return tmp_path


def dataset(root, split, **options):
    return dict(
        type='kd_dense.datasets.camvid.CamVidDataset',
        data_root=str(root),
        data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
        pipeline=PIPELINE,
        **options,
    )


def build(config):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(config)


def test_eleven_classes_each_with_a_colour_of_its_own(camvid_root):
    meta = build(dataset(camvid_root, 'val', test_mode=True)).metainfo
    assert (
        len(meta['classes']) == len(meta['palette']) == len(set(map(tuple, meta['palette']))) == 11
    )
    assert (meta['classes'][0], meta['classes'][4], meta['classes'][10]) == (
        'sky',
        'pavement',
        'bicyclist',
    )


def test_labels_arrive_as_they_are_stored(camvid_root):
    frames = build(dataset(camvid_root, 'train'))
    assert len(frames) == 2
    sample = frames[0]['data_samples']
    label = sample.gt_sem_seg.data[0]
    assert label.shape == (12, 16)
    assert (label[:3, :4] == 255).all()
    expected = (torch.arange(12 * 16) % 11).reshape(12, 16)
    kept = torch.ones(12, 16, dtype=torch.bool)
    kept[:3, :4] = False
    assert torch.equal(label[kept].long(), expected[kept])
    assert sample.seg_map_path.endswith('labels/train/train_0.png')


def test_train_and_val_are_one_training_set(camvid_root):
    both = build(
        dict(
            type='ConcatDataset',
            datasets=[dataset(camvid_root, 'train'), dataset(camvid_root, 'val')],
        )
    )
    assert len(both) == 3
    assert both.metainfo['classes'] == CamVidDataset.METAINFO['classes']
    names = [both[i]['data_samples'].img_path.split('/')[-1] for i in range(3)]
    assert names == ['train_0.jpg', 'train_1.jpg', 'val_0.jpg']


def test_mmseg_knows_it_by_its_plain_name(camvid_root):
    assert isinstance(
        build({**dataset(camvid_root, 'val'), 'type': 'CamVidDataset'}), CamVidDataset
    )


def test_without_mmseg_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, 'kd_dense.datasets.camvid')
    monkeypatch.setitem(sys.modules, 'mmseg.datasets', None)  # an import of it fails
    with pytest.raises(SetupError, match=r"mmsegmentation.*pip install 'kd_dense\[seg\]'"):
        importlib.import_module('kd_dense.datasets.camvid')


def test_kd_dense_does_without_mmseg():
    """In a fresh interpreter: this one has imported mmseg already."""
    code = 'import sys, kd_dense, kd_dense.datasets; assert "mmseg" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
