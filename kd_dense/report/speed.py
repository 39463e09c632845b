"""Size and speed of models on this machine."""

from __future__ import annotations

import logging
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.registry import DefaultScope

from ..export import Plain
from .predict import model_input

ROUNDS = 15


@dataclass
class Cost:
    """What a model costs.

    Attributes:
        parameters: how many, without heads that only training uses.
        flops: multiplications and additions of one forward pass, each pair as one; None where they
            could not be counted.
        shape: height and width that they were counted at.
        milliseconds: the median of a prediction from image to result, with its range.
    """

    parameters: int
    flops: int | None = None
    shape: tuple[int, int] | None = None
    milliseconds: float | None = None
    spread: tuple[float, float] | None = None


def count(plain: Plain, info: dict | None, size: tuple[int, int] = (320, 320)) -> Cost:
    """Parameters and FLOPs of a model.

    Args:
        plain: the model.
        info: of an image, whose size at the model's input counts; None takes ``size``.
        size: height and width.
    """
    used = (p for n, p in plain.model.named_parameters() if not n.startswith('auxiliary_head'))
    cost = Cost(sum(p.numel() for p in used))
    model = plain.model
    with DefaultScope.overwrite_default_scope(plain.scope), torch.no_grad():
        if info is not None:
            data = model.data_preprocessor(model_input(plain, info), False)
            images, samples = data['inputs'], data['data_samples']
        else:
            images, samples = torch.zeros(1, 3, *size), None
        cost.shape = tuple(images.shape[-2:])
        forward = model.forward
        model.forward = partial(forward, data_samples=samples)
        try:
            with _silence():
                counted = get_model_complexity_info(
                    model, None, inputs=(images,), show_table=False, show_arch=False
                )
            cost.flops = int(counted['flops'])
        except (RuntimeError, TypeError, AttributeError):  # models that do not trace
            cost.flops = None
        finally:
            del model.forward
    return cost


@contextmanager
def _silence() -> Iterator[None]:
    """Without a line for each operator that counts nothing."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(logging.NOTSET)


def measure(models: Mapping[str, Plain], info: dict) -> dict[str, list[float]]:
    """Milliseconds of predictions of one image; the models take turns, two rounds warm up.

    Args:
        models: by name.
        info: of the image.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    data = {name: model_input(plain, info) for name, plain in models.items()}
    with torch.no_grad():
        for turn in range(ROUNDS + 2):
            for name, plain in models.items():
                with DefaultScope.overwrite_default_scope(plain.scope):
                    begin = time.perf_counter()
                    plain.model.test_step(data[name])
                    if turn >= 2:
                        times[name].append((time.perf_counter() - begin) * 1000)
    return times


def measured(costs: Mapping[str, Cost], models: Mapping[str, Plain], info: dict) -> None:
    """Add the times of models to their costs; models of one network share all of theirs."""
    shared: dict[tuple, list[float]] = {}
    for name, times in measure(models, info).items():
        shared.setdefault(_network(name, costs, models), []).extend(times)
    for name in models:
        times = shared[_network(name, costs, models)]
        costs[name].milliseconds = median(times)
        costs[name].spread = (min(times), max(times))


def _network(name: str, costs: Mapping[str, Cost], models: Mapping[str, Plain]) -> tuple:
    """What two models have in common only where they compute the same with other weights."""
    cost = costs[name]
    return type(models[name].model), cost.parameters, cost.flops or name, cost.shape


def machine() -> str:
    """The machine in words: what computes, and on how many threads."""
    name = platform.processor() or platform.machine()
    facts = Path('/proc/cpuinfo')
    if facts.is_file():
        lines = facts.read_text().splitlines()
        names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
        name = names[0] if names else name
    threads = torch.get_num_threads()
    return f'{name}, {threads} thread{"s" if threads > 1 else ""}, torch {torch.__version__}'
