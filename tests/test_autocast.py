"""Mixed precision on a CPU: what runs in bfloat16, and what stays in float32."""

import logging

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS, AutocastOptimWrapper, autocast
from kd_dense.launch import use_mixed_precision
from tests.helpers import segmentation, two_stage
from tests.helpers.models import distiller, gradients, raw_batch

TYPE = 'kd_dense.AutocastOptimWrapper'
SGD = dict(type='SGD', lr=0.01)
CRITIC = 'kd_dense.AdversarialOptimWrapperConstructor'
CASES = {  # distiller, batch, the last layer before the classes
    'one stage': (distiller(), raw_batch, 'bbox_head.gfl_cls'),
    'two stages': (two_stage.distiller(), raw_batch, 'roi_head.bbox_head.fc_cls'),
    'segmentor': (segmentation.distiller(), segmentation.raw_batch, 'decode_head.conv_seg'),
}


def build(config: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model.train()


@pytest.mark.parametrize('case', CASES)
def test_a_step_in_bfloat16_is_near_the_one_in_float32(case):
    config, batch, layer = CASES[case]
    dtypes, logs, steps = [], [], []
    for kind in ('OptimWrapper', TYPE):
        model = build(config)
        before = {name: p.detach().clone() for name, p in model.student.named_parameters()}
        wrapper = build_optim_wrapper(model, dict(type=kind, optimizer=SGD))
        inside = model.student.get_submodule(layer)
        inside.register_forward_pre_hook(lambda _, inputs: dtypes.append(inputs[0].dtype))
        torch.manual_seed(1)  # of samplers
        logs.append(model.train_step(batch(), wrapper))
        steps.append({n: p.detach() - before[n] for n, p in model.student.named_parameters()})
        assert all(value.dtype == torch.float32 for value in gradients(model.student).values())
        assert all(value.dtype == torch.float32 for value in logs[-1].values())
    assert set(dtypes) == {torch.float32, torch.bfloat16}
    assert logs[1]['loss'].item() == pytest.approx(logs[0]['loss'].item(), rel=0.05)
    exact, mixed = (torch.cat([d.flatten() for d in each.values()]) for each in steps)
    assert torch.nn.functional.cosine_similarity(exact, mixed, dim=0) > 0.9
    assert not torch.equal(exact, mixed)


@pytest.mark.parametrize('case', CASES)
def test_predictions_leave_the_heads_in_float32(case):
    config, batch, layer = CASES[case]
    model = build(config).student
    wrapper = AutocastOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(2):
        with wrapper.optim_context(model):
            pass
    head = model.get_submodule(layer if case == 'segmentor' else layer.rsplit('.', 1)[0])
    assert len(head._forward_hooks) == 1  # added once
    seen = []
    head.register_forward_hook(lambda *a: seen.extend(a[-1]))
    with wrapper.optim_context(model):
        model(**model.data_preprocessor(batch(), True), mode='loss')
    flat = [t for each in seen for t in (each if isinstance(each, list) else [each])]
    assert {value.dtype for value in flat} == {torch.float32}


def test_the_game_has_its_student_in_bfloat16_and_its_critic_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    game = dict(type='kd_dense.Holistic', width=(8, 8, 8, 8))
    model = build(segmentation.distiller(dict(game=game)))
    config = Config(
        dict(
            optim_wrapper=dict(
                constructor=CRITIC,
                student=dict(type='OptimWrapper', optimizer=SGD),
                discriminator=dict(type='OptimWrapper', optimizer=SGD),
            )
        )
    )
    use_mixed_precision(config)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert isinstance(wrapper['student'], AutocastOptimWrapper)
    assert not isinstance(wrapper['discriminator'], AutocastOptimWrapper)
    dtypes = []
    critic = model.losses['game'].own_module()
    first = next(m for m in critic.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda *a: dtypes.append(a[-1].dtype))
    model.train_step(segmentation.raw_batch(), wrapper)
    assert dtypes and set(dtypes) == {torch.float32}


def test_what_only_mixing_on_a_gpu_takes_is_left_out_without_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    wrapper = dict(type='AmpOptimWrapper', dtype='float16', loss_scale=512.0, use_fsdp=False)
    config = Config(dict(optim_wrapper=dict(wrapper, optimizer=SGD, accumulative_counts=2)))
    use_mixed_precision(config)
    model = build(distiller())
    built = build_optim_wrapper(model, config.optim_wrapper)
    assert isinstance(built, AutocastOptimWrapper)
    assert built._accumulative_counts == 2


def test_a_processor_without_bfloat16_is_told_of(monkeypatch):
    monkeypatch.setattr(autocast, 'fast_bfloat16', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    told = []
    monkeypatch.setattr(autocast, 'print_log', lambda text, *a: told.append((text, a[-1])))
    AutocastOptimWrapper(optimizer=torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1))
    assert 'no instructions for bfloat16' in told[0][0] and told[0][1] == logging.WARNING
