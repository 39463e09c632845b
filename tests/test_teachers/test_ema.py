"""The running average of the student as its teacher."""

import copy
import shutil

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS, EMATeacher
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model
from tests.helpers.models import distiller, gfl, losses, raw_batch
from tests.helpers.trainings import assert_same, state, train, training

SGD = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
TEACHER = dict(type='kd_dense.EMATeacher', half_life=2)


def build(seed: int = 0, teacher=TEACHER, weights=None, **more):
    torch.manual_seed(seed)
    config = distiller(teacher=teacher, losses=losses(**(weights or dict(cls=1.0, imitation=1.0))))
    model = MODELS.build(dict(config, **more))
    model.init_weights()
    return model.train()


def test_three_steps_by_hand():
    model = build()
    wrapper = build_optim_wrapper(model, SGD)
    name = 'bbox_head.gfl_cls.weight'
    average = dict(model.student.named_parameters())[name].detach().clone()
    for step in range(1, 4):
        model.train_step(raw_batch(seed=step), wrapper)
        m = min(0.5**0.5, 1 - 1 / (step + 1))
        now = dict(model.student.named_parameters())[name].detach()
        average = m * average + (1 - m) * now
        seen = dict(model.teacher.model.named_parameters())[name]
        torch.testing.assert_close(seen, average)
        for key, buffer in model.student.named_buffers():
            assert torch.equal(dict(model.teacher.model.named_buffers())[key], buffer), key
    assert not torch.equal(average, now)


def test_losses_are_nothing_where_the_average_is_the_student_and_grow_from_there():
    model = build(teacher=dict(TEACHER, half_life=50))
    for module in model.student.modules():  # else the student's batch norms differ by their mode
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    data = model.data_preprocessor(raw_batch(), True)
    logs = model(**data, mode='loss')
    assert float(logs['loss_kd_imitation']) == pytest.approx(0, abs=1e-6)
    wrapper = build_optim_wrapper(model, SGD)
    for _ in range(2):
        model.train_step(raw_batch(), wrapper)
    assert float(model(**data, mode='loss')['loss_kd_imitation']) > 0


def test_it_neither_trains_nor_leaves_evaluation_nor_changes_a_training_of_weights_0():
    torch.manual_seed(0)
    plain = build_model(gfl())
    plain.init_weights()
    plain.train()
    model = build(weights=dict(cls=0, imitation=0))
    wrappers = [build_optim_wrapper(each, SGD) for each in (plain, model)]
    for seed in range(3):
        for each, wrapper in zip((plain, model), wrappers, strict=True):
            each.train_step(raw_batch(seed=seed), wrapper)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[name]), name
    assert not any(m.training for m in model.teacher.model.modules())
    assert not any(p.requires_grad for p in model.teacher.model.parameters())
    assert int(model.teacher.module.steps) == 3


def test_a_step_left_out_and_an_accumulated_gradient_are_not_followed():
    model = build()
    wrapper = build_optim_wrapper(model, dict(SGD, accumulative_counts=2))
    wrapper.initialize_count_status(model, 0, 4)
    for seed in range(4):
        model.train_step(raw_batch(seed=seed), wrapper)
    assert int(model.teacher.module.steps) == 2
    broken = build()
    batch = raw_batch()
    batch['inputs'] = [image.float() * float('nan') for image in batch['inputs']]
    broken.train_step(batch, build_optim_wrapper(broken, SGD))
    assert int(broken.teacher.module.steps) == 0
    assert all(bool(p.isfinite().all()) for p in broken.teacher.model.parameters())


def test_a_killed_training_resumes_to_the_bit(digits_root, tmp_path):
    def short(name: str):
        config = training(digits_root, tmp_path / name)
        config.train_cfg.update(max_iters=4, val_interval=4)
        config.model.teacher = dict(type='kd_dense.EMATeacher')  # 2 % of 4 steps
        config.custom_hooks = [
            dict(type='kd_dense.StudentCheckpointHook'), dict(type='kd_dense.AroundStepHook')
        ]  # fmt: skip
        return config

    train(short('whole'))
    again = short('again')
    (tmp_path / 'again').mkdir(exist_ok=True)
    shutil.copy(tmp_path / 'whole/iter_2.pth', tmp_path / 'again/iter_2.pth')
    (tmp_path / 'again/last_checkpoint').write_text(str(tmp_path / 'again/iter_2.pth'))
    again.resume = True
    train(again)
    one, two = (state(tmp_path / name / 'iter_4.pth')['state_dict'] for name in ('whole', 'again'))
    assert_same(one, two)
    assert int(one['teacher_modules.teacher.steps']) == 4
    plain = state(tmp_path / 'whole/iter_4_student.pth')['state_dict']
    assert not any('teacher' in name for name in plain)


def test_from_a_plain_checkpoint_it_begins_with_the_students_weights():
    model = build()
    other = build(seed=3).student.state_dict()
    model.load_state_dict(copy.deepcopy(other), strict=False)  # as `load_from` does
    model.train_step(
        raw_batch(), build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0)))
    )
    for name, value in model.student.named_parameters():
        assert torch.equal(dict(model.teacher.model.named_parameters())[name], value), name


def test_the_half_life_is_a_share_of_the_training_where_none_is_given():
    model = build(teacher=dict(type='kd_dense.EMATeacher'))
    MessageHub.get_current_instance().update_info('max_iters', 500)
    try:
        model.train_step(raw_batch(), build_optim_wrapper(model, SGD))
    finally:
        MessageHub.get_current_instance().runtime_info.pop('max_iters')
    assert model.teacher.half_life == 10


@pytest.mark.parametrize('wrong', [0, -1, True, 'long'])
def test_a_half_life_that_is_none_is_refused(wrong):
    with pytest.raises(SetupError, match='number of steps above 0'):
        EMATeacher(half_life=wrong)


def test_without_a_half_life_and_a_training_it_says_so():
    model = build(teacher=dict(type='kd_dense.EMATeacher'))
    MessageHub.get_current_instance().runtime_info.pop('max_iters', None)
    with pytest.raises(SetupError, match=r'give `teacher.half_life`'):
        model.train_step(raw_batch(), build_optim_wrapper(model, SGD))
