"""Time, memory and the parts of a step."""

import copy
import math
import time

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS
from kd_dense.measure import (
    all_seconds,
    in_fresh_process,
    medians,
    parts_of_step,
    peak_memory,
    training_step,
)
from tests.helpers.models import distiller
from tests.helpers.pairs import raw


def test_things_take_turns_and_the_first_rounds_do_not_count():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in 'ab'}
    times = all_seconds(runs, rounds=3, on_gpu=False, warm_up=2)
    assert calls == ['a', 'b'] * 5
    assert {name: len(values) for name, values in times.items()} == dict(a=3, b=3)


def test_the_median_is_not_moved_by_one_slow_round():
    assert medians(dict(a=[1.0, 100.0, 2.0])) == dict(a=2.0)


def test_memory_is_that_of_this_process():
    before = peak_memory(on_gpu=False)
    held = torch.ones(200, 2**20)  # 800 MiB
    assert peak_memory(on_gpu=False) > max(before, held.numel() * 4 / 2**20)


@pytest.fixture
def step():
    model = MODELS.build(distiller())
    model.init_weights()
    optimizer = build_optim_wrapper(model.train(), dict(optimizer=dict(type='SGD', lr=0.01)))
    return model, lambda: training_step(model, optimizer, copy.deepcopy(raw()))


def test_a_step_is_taken_apart_into_student_teacher_losses_and_the_rest(step):
    model, run = step
    run()
    begin = time.perf_counter()
    parts = parts_of_step(run, on_gpu=False)
    whole = time.perf_counter() - begin
    names = {f'losses.{name}' for name in model.losses}
    assert {'student', 'backward and update', *names} <= set(parts)
    assert {name for name in parts if name.startswith('teacher.')} == {
        'teacher.box_logits', 'teacher.cls_logits', 'teacher.features',
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in parts.values()) and 0 < sum(parts.values()) < whole


def test_what_runs_inside_another_part_counts_once(step):
    model, run = step
    run()
    forward = model.student.loss

    def slow(*args, **kwargs):
        time.sleep(0.2)
        return forward(*args, **kwargs)

    model.student.loss = slow
    begin = time.perf_counter()
    parts = parts_of_step(run, on_gpu=False)
    assert parts['student'] > 0.2 and sum(parts.values()) < time.perf_counter() - begin


def test_a_teacher_that_nobody_looks_at_has_no_part(step):
    model, run = step
    for loss in model.losses.values():
        loss.weight = 0
    parts = parts_of_step(run, on_gpu=False)
    assert set(parts) == {'student', 'backward and update'}


def test_a_fresh_process_returns_a_number_or_none_where_it_failed():
    assert in_fresh_process(math.sqrt, 4.0) == 2.0
    assert in_fresh_process(math.sqrt, -1.0) is None
