"""Real trainings through mmengine's Runner: resume, averaging, precision, ranks, checkpoints."""

import copy

import pytest
import torch
from mmengine.config import Config

from kd_dense.config_check import check_loops
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model
from kd_dense.training import newest
from tests.helpers.models import distiller, gfl, losses
from tests.helpers.processes import in_ranks
from tests.helpers.trainings import (
    assert_same,
    state,
    train,
    train_apart,
    train_by_script,
    training,
)


def test_a_killed_training_resumes_bit_for_bit(digits_root, tmp_path):
    train(training(digits_root, tmp_path / 'whole'))
    killed = training(digits_root, tmp_path / 'killed')
    hooks = copy.copy(killed.custom_hooks)
    killed.custom_hooks.append(dict(type='kd_dense.KillAt', step=5))
    died = train_apart(killed)
    assert died.returncode == -9, died.stderr[-2000:]
    assert not (tmp_path / 'killed' / 'iter_6.pth').exists()
    killed.custom_hooks = hooks
    resumed = train_apart(killed, '--resume')
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    a, b = state(tmp_path / 'whole' / 'iter_6.pth'), state(tmp_path / 'killed' / 'iter_6.pth')
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(a[part], b[part], part)
    assert any(key.startswith('losses.imitation.adapters') for key in a['state_dict'])


def test_checkpoints_hold_no_teacher_and_the_students_load_strictly(digits_root, tmp_path):
    runner = train(training(digits_root, tmp_path))
    saved = state(tmp_path / 'iter_6.pth')
    teacher = {id(p) for p in runner.model.teacher.model.parameters()}
    held = {id(p) for g in runner.optim_wrapper.param_groups for p in g['params']}
    assert not teacher & held
    assert {key.split('.')[0] for key in saved['state_dict']} == {'student', 'losses'}
    plain = build_model(Config(gfl(num_classes=10))._cfg_dict)
    student = state(tmp_path / 'iter_6_student.pth')
    plain.load_state_dict(student['state_dict'], strict=True)
    assert_same(
        {f'student.{k}': v for k, v in plain.state_dict().items()},
        {k: v for k, v in saved['state_dict'].items() if k.startswith('student.')},
    )


def test_averaging_keeps_one_teacher_and_gives_the_student_averaged_weights(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    config.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    runner = train(config)
    hook = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook')
    assert hook.ema_model.module.teacher is runner.model.teacher
    averaged = hook.ema_model.module.student.state_dict()['bbox_head.gfl_cls.weight']
    live = runner.model.student.state_dict()['bbox_head.gfl_cls.weight']
    student = state(tmp_path / 'iter_6_student.pth')['state_dict']['bbox_head.gfl_cls.weight']
    assert torch.equal(student, averaged) and not torch.equal(student, live)


def test_tensorboard_is_a_config_line(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    config.train_cfg.max_iters = 1
    config.default_hooks.logger.interval = 1
    config.visualizer.vis_backends = [dict(type='TensorboardVisBackend')]
    train(config)
    events = next(tmp_path.glob('*/vis_data/events.out.tfevents.*'))
    assert b'loss_kd_ld' in events.read_bytes()


def test_a_training_without_any_weight_equals_the_plain_one(digits_root, tmp_path):
    off = training(digits_root, tmp_path / 'off')
    off.model.losses = losses(ld=0, vlr=0, cls=0, imitation=0)
    off.optim_wrapper.pop('clip_grad')
    plain = copy.deepcopy(off)
    plain.work_dir = str(tmp_path / 'plain')
    plain.model = gfl(num_classes=10)
    plain.custom_hooks = []
    a, b = train(off), train(plain)
    assert_same(a.model.student.state_dict(), b.model.state_dict())
    assert not (tmp_path / 'plain' / 'iter_6_student.pth').exists()


def test_two_ranks_train_through_the_script(digits_root, tmp_path):
    config = training(digits_root, tmp_path / 'out')
    config.train_cfg.max_iters = 2
    config.model.losses['late'] = dict(  # an adapter that no step uses: DDP must not mind
        type='kd_dense.FeatureImitation', adapter='conv1x1', weight=0
    )
    done = train_by_script(config, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = state(tmp_path / 'out' / 'iter_2.pth')
    assert saved['meta']['iter'] == 2
    assert (tmp_path / 'out' / 'iter_2_student.pth').exists()


def _rank(rank: int, file: str, out: str) -> None:
    """One of two ranks: gradients of its half of the batch, averaged by DDP."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(_model())
    _backward(model, slice(2 * rank, 2 * rank + 2))
    if rank == 0:
        torch.save({n: p.grad for n, p in model.module.named_parameters()}, out)
    torch.distributed.destroy_process_group()


def _model() -> torch.nn.Module:
    from kd_dense import MODELS

    config = distiller()
    config['student']['backbone']['norm_eval'] = True
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    # scores near 0.5: the host clamps its own average at 1 per rank, which tiny scores would reach
    torch.nn.init.zeros_(model.student.bbox_head.gfl_cls.bias)
    return model.train()


def _backward(model: torch.nn.Module, part: slice) -> None:
    from tests.helpers.models import raw_batch

    distilled = getattr(model, 'module', model)
    data = distilled.data_preprocessor(raw_batch((3, 2, 4, 0)), True)
    out = model(data['inputs'][part], data['data_samples'][part], mode='loss')
    distilled.parse_losses(out)[0].backward()


def test_two_ranks_of_two_images_equal_one_of_four(tmp_path):
    out = tmp_path / 'gradients.pth'
    in_ranks(_rank, str(tmp_path / 'group'), str(out))
    model = _model()
    _backward(model, slice(0, 4))
    two = torch.load(out)
    for name, parameter in model.named_parameters():
        expected = parameter.grad
        torch.testing.assert_close(
            two[name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()), msg=name
        )


# -- what --resume finds -------------------------------------------------------------------------


def folder_with(path, *steps: int, note: str | None = None):
    for step in steps:
        torch.save(dict(step=step), path / f'iter_{step}.pth')
        torch.save(dict(step=step), path / f'iter_{step}_student.pth')
    if note is not None:
        (path / 'last_checkpoint').write_text(note)
    return path


@pytest.mark.parametrize('note', ['', 'elsewhere/iter_9.pth', None])
def test_an_empty_or_stale_note_is_mended_from_the_files(tmp_path, note):
    folder = folder_with(tmp_path, 5, 10, note=note)
    assert newest(str(folder)) == (str(folder / 'iter_10.pth'), [])


def test_the_noted_one_counts_also_where_the_folder_was_moved(tmp_path):
    folder = folder_with(tmp_path, 5, 10, note='where/it/was/iter_5.pth')
    assert newest(str(folder)) == (str(folder / 'iter_5.pth'), [])


def test_a_checkpoint_that_is_cut_short_is_passed_over_and_told(tmp_path):
    folder = folder_with(tmp_path, 5, 10, note='iter_10.pth')
    whole = (folder / 'iter_10.pth').read_bytes()
    for size in (0, len(whole) // 2):
        (folder / 'iter_10.pth').write_bytes(whole[:size])
        path, told = newest(str(folder))
        assert path == str(folder / 'iter_5.pth')
        assert len(told) == 1 and 'iter_10.pth is cut short' in told[0]


def test_nothing_to_resume_is_told(tmp_path):
    path, told = newest(str(tmp_path))
    assert path is None
    assert 'nothing to resume' in told[0] and 'starting anew' in told[0]


@pytest.mark.parametrize('length', [0, -3])
@pytest.mark.parametrize('key', ['max_iters', 'max_epochs'])
def test_a_training_without_a_step_is_refused(key, length):
    loader = dict(train_dataloader=dict(dataset=dict(type='D')), optim_wrapper=dict())
    with pytest.raises(
        SetupError, match=f'train_cfg.{key} is {length}; .*nothing would be trained'
    ):
        check_loops(Config(dict(loader, train_cfg={key: length})), 'train')
