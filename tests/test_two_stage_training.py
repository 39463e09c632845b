"""Real trainings of a two-stage student: resume with adapters, hooks, and two ranks."""

import copy
import json

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_dense import MODELS
from kd_dense.hosts import build_model, read_model_config
from tests.helpers.models import raw_batch
from tests.helpers.processes import in_ranks
from tests.helpers.trainings import assert_same, state, train, training
from tests.helpers.two_stage import distiller, faster_rcnn, losses


class Stop(Hook):
    """Stop the training in the middle of a step."""

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.iter == 3:
            raise KeyboardInterrupt


def short(root, work_dir):
    """4 steps of 2 images, with batch norm in the adapters."""
    config = training(root, work_dir)
    config.train_cfg.max_iters = 4
    config.model = distiller(
        student=faster_rcnn(num_classes=10),
        teacher=dict(config=faster_rcnn(channels=32, num_classes=10), untrained=True),
        losses=dict(losses(), hint=dict(losses()['hint'], adapter=dict(norm=True, relu=True))),
    )
    return config


def test_a_stopped_training_resumes_bit_for_bit(digits_root, tmp_path):
    whole, stopped = (short(digits_root, tmp_path / name) for name in ('whole', 'stopped'))
    train(copy.deepcopy(whole))
    stopped.experiment_name = 'stopped'
    runner = Runner.from_cfg(copy.deepcopy(stopped))
    runner.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert not (tmp_path / 'stopped' / 'iter_4.pth').exists()
    stopped.resume = True
    train(stopped)
    a, b = state(tmp_path / 'whole' / 'iter_4.pth'), state(tmp_path / 'stopped' / 'iter_4.pth')
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(a[part], b[part], part)
    assert 'losses.hint.adapters.0.1.running_mean' in a['state_dict']
    assert len(a['state_dict']) > len(
        state(tmp_path / 'whole' / 'iter_2_student.pth')['state_dict']
    )


def test_hooks_work_and_the_student_loads_strictly(digits_root, tmp_path):
    config = short(digits_root, tmp_path)
    config.train_cfg.max_iters = 2
    config.train_cfg.val_interval = 2
    config.custom_hooks += [
        dict(type='kd_dense.LossBalanceHook', steps=1),
        dict(type='kd_dense.DistillationPictureHook', num_images=2),
    ]
    train(config)
    report = json.loads((tmp_path / 'loss_balance.json').read_text())
    assert set(report['losses']) == set(losses())
    assert report['losses']['hint']['gradient_norm'] > 0
    assert report['losses']['roi_cls']['gradient_norm'] > 0
    assert (tmp_path / 'pictures' / 'val_iter_2.png').exists()
    plain = build_model(read_model_config(faster_rcnn(num_classes=10), 'student'))
    plain.load_state_dict(state(tmp_path / 'iter_2_student.pth')['state_dict'], strict=True)


def _model() -> torch.nn.Module:
    config = distiller()
    config['student'] = faster_rcnn(sampled=2000)  # all are sampled: nothing is left to chance
    config['student']['backbone']['norm_eval'] = True
    for loss in config['losses'].values():
        if 'mu' in loss or loss['type'].endswith('CrossEntropy'):
            loss['mu'] = None  # the host divides its own loss by the count of its own rank
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model.train()


def _backward(model: torch.nn.Module, part: slice) -> None:
    """Gradients of the distillation losses alone."""
    distilled = getattr(model, 'module', model)
    data = distilled.data_preprocessor(raw_batch((3, 2, 4, 0)), True)
    out = model(data['inputs'][part], data['data_samples'][part], mode='loss')
    ours = sum(value for name, value in out.items() if name.startswith('loss_kd'))
    own = distilled.parse_losses({k: v for k, v in out.items() if 'kd' not in k})[0]
    (ours + own * 0).backward()


def _rank(rank: int, file: str, out: str) -> None:
    """One of two ranks: gradients of its half of the batch, averaged by DDP."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(_model())
    _backward(model, slice(2 * rank, 2 * rank + 2))
    if rank == 0:
        torch.save({n: p.grad for n, p in model.module.named_parameters()}, out)
    torch.distributed.destroy_process_group()


def test_two_ranks_of_two_images_equal_one_of_four(tmp_path):
    out = tmp_path / 'gradients.pth'
    in_ranks(_rank, str(tmp_path / 'group'), str(out))
    model = _model()
    _backward(model, slice(0, 4))
    two = torch.load(out)
    moved = 0
    for name, parameter in model.named_parameters():
        expected = parameter.grad
        moved += bool(expected.any())
        torch.testing.assert_close(
            two[name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()), msg=name
        )
    assert moved > 50  # all but what the zero-initialised norms cut off
