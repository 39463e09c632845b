"""Ways to train that users bring along: each trains some steps with a teacher.

Running averages, epochs and their checkpoints: tests/test_hooks/test_student_checkpoint.py.
"""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from tests.helpers.trainings import state, train, training

LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
PACK = dict(type='PackDetInputs')
SIZE = (128, 128)
MIXES = {
    'mosaic': [
        dict(type='Mosaic', img_scale=SIZE, pad_val=114.0),
        dict(type='RandomAffine', border=(-64, -64), max_rotate_degree=5.0),
    ],
    'mixup': [
        dict(type='MixUp', img_scale=SIZE, ratio_range=(0.8, 1.6), pad_val=114.0),
        dict(type='Resize', scale=SIZE, keep_ratio=False),
    ],
    'copy-paste': [dict(type='CopyPaste', max_num_pasted=3, paste_by_box=True)],
}


def mixed(config: Config, name: str) -> Config:
    """Let a training mix several images into one."""
    inner = config.train_dataloader.dataset
    inner.pipeline = [*LOAD, dict(type='Resize', scale=SIZE, keep_ratio=False)]
    config.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', dataset=inner, pipeline=[*MIXES[name], PACK]
    )
    return config


@pytest.mark.parametrize('name', MIXES)
def test_pipelines_that_mix_images(name, digits_root, tmp_path):
    runner = train(mixed(training(digits_root, tmp_path / 'out'), name))
    history = runner.message_hub.log_scalars
    for loss in ('loss', 'loss_kd_ld', 'loss_kd_imitation'):
        values = torch.tensor([float(v) for v in history[f'train/{loss}']._log_history])
        assert len(values) == 6 and values.isfinite().all()
    assert float(history['train/loss_kd_imitation']._log_history[0]) > 0


def weights_after(config: Config) -> dict:
    train(config)
    return state(Path(config.work_dir) / 'iter_6.pth')['state_dict']


def test_accumulated_gradients_step_every_second_time(digits_root, tmp_path):
    config = training(digits_root, tmp_path / 'out')
    config.optim_wrapper.accumulative_counts = 2
    config.default_hooks.checkpoint.interval = 1
    train(config)
    weight = 'student.bbox_head.gfl_cls.weight'
    found = [state(tmp_path / f'out/iter_{i}.pth')['state_dict'][weight] for i in range(1, 7)]
    moved = [not torch.equal(a, b) for a, b in pairwise(found)]
    assert moved == [True, False, True, False, True]


def test_checkpointed_activations_give_the_same_student(digits_root, tmp_path):
    plain, frugal = (training(digits_root, tmp_path / name) for name in ('plain', 'frugal'))
    frugal.model = copy.deepcopy(plain.model)
    frugal.model.student.backbone.with_cp = True
    expected, found = weights_after(plain), weights_after(frugal)
    learnt = [name for name in expected if 'running' not in name and 'num_batches' not in name]
    for name in learnt:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)
