"""FitNets' two stages, as shipped: what trains, what is handed over, what two ranks make of it."""

import copy

import pytest
import torch
from mmengine.config import Config

from kd_dense import MODELS
from kd_dense.hooks.weight_schedule import factor_at
from kd_dense.hosts import build_model, read_model_config
from tests.helpers.models import distiller, raw_batch
from tests.helpers.processes import in_ranks
from tests.helpers.trainings import ROOT, short_training, train, train_apart

PAIRS = [
    ('gfl_r18-quarter_digits', ('backbone', 'neck')),
    ('pspnet_r18-quarter_digits-seg', ('backbone',)),
]


def config_of(stage: str, student: str) -> Config:
    return Config.fromfile(ROOT / f'configs/digits/fitnets-{stage}_{student}.py')


@pytest.mark.parametrize(('student', 'trains'), PAIRS)
def test_both_stages_are_one_schedule_of_one_student(student, trains, monkeypatch):
    monkeypatch.chdir(ROOT)
    hint, soft = config_of('hint', student), config_of('soft', student)
    alone = Config.fromfile(ROOT / f'configs/digits/{student}.py')
    assert tuple(hint.model.trains) == trains and hint.model.own_loss is False
    assert hint.model.student == soft.model.student == alone.model
    steps = [each.train_cfg.max_iters for each in (hint, soft, alone)]
    assert steps[0] + steps[1] == steps[2]
    for each in (hint, soft):
        assert each.param_scheduler[-1].end == each.train_cfg.max_iters
    assert soft.load_from == f'work_dirs/fitnets-hint_{student}/iter_{steps[0]}_student.pth'
    assert steps[0] % hint.default_hooks.checkpoint.interval == 0


@pytest.mark.parametrize(('student', 'trains'), PAIRS)
def test_the_weight_of_the_soft_targets_is_the_papers_lambda(student, trains):
    soft = config_of('soft', student)
    (hook,) = (h for h in soft.custom_hooks if h.type == 'kd_dense.WeightScheduleHook')
    (loss,) = soft.model.losses.values()
    for now, expected in ((0, 4.0), (soft.max_iters // 2, 2.5), (soft.max_iters, 1.0)):
        factor = factor_at([hook.schedules.soft], now)
        # our soft targets are multiplied by T^2, the paper's are not
        assert factor * loss.weight * loss.temperature**2 == pytest.approx(expected)


@pytest.mark.slow
def test_the_second_stage_starts_from_all_of_the_first_ones_student(
    digits_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('DIGITS_ROOT', str(digits_root))
    teacher = 'configs/digits/gfl_r18-half_digits.py'
    students = []
    for stage in ('hint', 'soft'):
        config = short_training(
            f'digits/fitnets-{stage}_gfl_r18-quarter_digits.py', tmp_path / stage
        )
        config.model.teacher = dict(config=teacher, untrained=True)
        config.train_cfg.val_begin = 1000
        config.load_from = None if stage == 'hint' else str(tmp_path / 'hint/iter_6_student.pth')
        config.train_cfg.max_iters = 6 if stage == 'hint' else 1
        if stage == 'soft':
            config.optim_wrapper.optimizer.lr = 0.0  # to see what it starts from
            config.default_hooks.checkpoint.interval = 1
        runner = train(config)
        students.append(copy.deepcopy(runner.model.student.state_dict()))
    plain = build_model(read_model_config('configs/digits/gfl_r18-quarter_digits.py', 'student'))
    saved = torch.load(tmp_path / 'hint/iter_6_student.pth', weights_only=False)['state_dict']
    plain.load_state_dict(saved, strict=True)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, students[0][name]), name
        if 'running' not in name and 'tracked' not in name:  # statistics of the one step
            assert torch.equal(value, students[1][name]), name


def _model() -> torch.nn.Module:
    losses = dict(hint=dict(type='kd_dense.FeatureImitation', weight=1.0))
    config = distiller(own_loss=False, trains=('backbone', 'neck'), losses=losses)
    config['student']['backbone']['norm_eval'] = True
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model.train()


def _backward(model: torch.nn.Module, part: slice) -> None:
    distilled = getattr(model, 'module', model)
    data = distilled.data_preprocessor(raw_batch((3, 2, 4, 0)), True)
    out = model(data['inputs'][part], data['data_samples'][part], mode='loss')
    distilled.parse_losses(out)[0].backward()


def _rank(rank: int, file: str, out: str) -> None:
    """One of two ranks: gradients of its half of the batch, averaged by DDP, twice."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(_model())
    for _ in range(2):  # what is unused in one step is an error of the next
        model.zero_grad()
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
    trained = 0
    for name, parameter in model.named_parameters():
        expected = parameter.grad
        if expected is None:
            assert two[name] is None and name.startswith('student.bbox_head'), name
            continue
        trained += 1
        torch.testing.assert_close(
            two[name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()), msg=name
        )
    assert trained > 50


@pytest.mark.slow
def test_the_first_stage_trains_on_two_ranks(digits_root, tmp_path, monkeypatch):
    monkeypatch.setenv('DIGITS_ROOT', str(digits_root))
    config = short_training('digits/fitnets-hint_gfl_r18-quarter_digits.py', tmp_path / 'out')
    config.train_cfg.max_iters = 2
    config.model.teacher = dict(config='configs/digits/gfl_r18-half_digits.py', untrained=True)
    done = train_apart(config, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'out' / 'iter_2_student.pth').exists()
