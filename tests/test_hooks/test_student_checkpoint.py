"""Student checkpoints: which files there are, what is in them, and what a kill leaves."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from kd_dense.errors import SetupError
from kd_dense.hooks import StudentCheckpointHook, student_checkpoint
from kd_dense.hosts import build_model, read_model_config
from kd_dense.version import __version__

HOOK = dict(type='kd_dense.StudentCheckpointHook')


def read(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=False)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file() and 'pth' in path.name}


def test_each_checkpoint_has_its_student_and_those_of_removed_ones_go(training, tmp_path):
    saving = dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=2)
    runner = training(
        validate=True,
        custom_hooks=[HOOK, dict(type='EMAHook', momentum=0.5)],
        default_hooks=dict(checkpoint=saving | dict(save_best='coco/bbox_mAP', rule='greater')),
    )
    runner.train()
    work = tmp_path / 'work'
    best = next(name for name in names(work) if name.startswith('best') and 'student' not in name)
    sources = {'iter_3.pth', 'iter_4.pth', best}
    assert names(work) == sources | {name.replace('.pth', '_student.pth') for name in sources}
    for name in sources:
        source = read(work / name)
        plain = read(work / name.replace('.pth', '_student.pth'))
        assert set(plain) == {'meta', 'state_dict'}
        for key, value in plain['state_dict'].items():
            assert torch.equal(value, source['state_dict'][f'student.{key}']), key
        assert plain['meta']['iter'] == source['meta']['iter']
        assert plain['meta']['dataset_meta']['classes'][1] == 'one'
        assert plain['meta']['kd_dense_version'] == __version__
    live = runner.model.student.state_dict()
    assert not torch.equal(plain['state_dict']['bbox_head.gfl_cls.weight'],
                           live['bbox_head.gfl_cls.weight'])  # fmt: skip


def test_it_loads_strictly_by_its_own_config_which_needs_no_kd_dense(training, tmp_path):
    training(custom_hooks=[HOOK], optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1))).train()
    plain = read(tmp_path / 'work' / 'iter_4_student.pth')
    assert 'kd_dense' not in plain['meta']['cfg']
    config = Config.fromstring(plain['meta']['cfg'], '.py')
    assert config.train_dataloader.batch_size == 2
    model = build_model(read_model_config(config.to_dict(), 'student'))
    model.load_state_dict(plain['state_dict'], strict=True)


def test_by_epoch_with_a_file_name_of_its_own(training, tmp_path):
    hook = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, filename_tmpl='e{:03d}.pth')
    training(
        custom_hooks=[HOOK],
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
        train_dataloader=dict(
            training().cfg.train_dataloader, sampler=dict(type='DefaultSampler', shuffle=True)
        ),
        default_hooks=dict(checkpoint=hook),
    ).train()
    assert names(tmp_path / 'work') == {'e002.pth', 'e002_student.pth'}


def test_a_killed_write_leaves_no_half_file_and_resuming_catches_up(
    training, tmp_path, monkeypatch
):
    def killed(data, path):
        Path(path).write_bytes(b'half')
        raise KeyboardInterrupt

    training(custom_hooks=[HOOK], train_cfg=dict(type='IterBasedTrainLoop', max_iters=2)).train()
    work = tmp_path / 'work'
    target = work / 'iter_2_student.pth'
    target.unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, 'save', killed)
        StudentCheckpointHook().write(work / 'iter_2.pth')
    assert not target.exists()
    training(custom_hooks=[HOOK], resume=True).train()
    assert read(target)['meta']['iter'] == 2
    assert names(work) == {f'iter_{i}{s}.pth' for i in (2, 4) for s in ('', '_student')}


def test_an_unchanged_checkpoint_is_not_read_again(tmp_path, monkeypatch):
    source = tmp_path / 'iter_1.pth'
    torch.save({'state_dict': {'student.w': torch.ones(1)}}, source)
    StudentCheckpointHook().write(source)
    os.utime(source, ns=(5, 5))
    StudentCheckpointHook().write(source)
    assert (tmp_path / 'iter_1_student.pth').stat().st_mtime_ns == 5
    monkeypatch.setattr(torch, 'load', lambda *_, **__: pytest.fail('read again'))
    StudentCheckpointHook().write(source)


def test_an_iteration_without_a_checkpoint_costs_nothing():
    StudentCheckpointHook().after_train_iter(runner=None, batch_idx=0)  # looks at nothing


def test_only_its_own_files_are_removed(tmp_path):
    kept = ['resnet_student.pth', 'iter_x_student.pth', 'iter_7_student.pth', 'iter_7.pth']
    gone = ['iter_5_student.pth', 'best_coco_bbox_mAP_iter_5_student.pth']
    for name in kept + gone:
        (tmp_path / name).touch()
    StudentCheckpointHook()._remove_orphans(tmp_path, 'iter_{}.pth')
    assert names(tmp_path) == set(kept)


def test_a_plain_checkpoint_is_refused():
    with pytest.raises(SetupError, match=r"no weight begins with 'student\.'"):
        student_checkpoint({'state_dict': {'backbone.w': torch.ones(1)}})
