"""Size and speed of models on this machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..export import Plain
from ..measure import all_seconds
from ..pictures import Sample
from .running import model_input

ROUNDS = 15
SIZE = (320, 320)  # height and width that models without an image are counted at


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


def count(plain: Plain, sample: Sample | None) -> Cost:
    """Parameters and FLOPs of a model.

    Args:
        plain: the model.
        sample: whose size at the model's input counts; None takes :data:`SIZE`.
    """
    model = plain.model
    used = (p for n, p in model.named_parameters() if not n.startswith('auxiliary_head'))
    cost = Cost(sum(p.numel() for p in used))
    data: dict = dict(inputs=torch.zeros(1, 3, *SIZE))
    with DefaultScope.overwrite_default_scope(plain.scope), torch.no_grad():
        if sample is not None:
            data = model.data_preprocessor(model_input(plain, sample), False)
        cost.shape = tuple(data['inputs'].shape[-2:])
        cost.flops = count_flops(model, **data)
    return cost


def count_flops(model: nn.Module, **data: Any) -> int | None:
    """Multiplications and additions of one forward pass, each pair as one; None without any way.

    Args:
        model: to be counted, in its scope.
        data: of the pass: ``inputs`` of shape (1, 3, H, W), and what else it takes.
    """
    with suppress(RuntimeError, TypeError, AttributeError):  # models that want a real image
        with FlopCounterMode(display=False) as counter:
            model(**data, mode='tensor')
        return counter.get_total_flops() // 2
    return None


def measure(costs: Mapping[str, Cost], models: Mapping[str, Plain], sample: Sample) -> None:
    """Add the times of predictions of one image; models of one network share all of theirs.

    Args:
        costs: of the models, by name.
        models: by name.
        sample: the image.
    """
    data = {name: model_input(plain, sample) for name, plain in models.items()}

    def run(name: str) -> None:
        with DefaultScope.overwrite_default_scope(models[name].scope), torch.no_grad():
            models[name].model.test_step(data[name])

    times = all_seconds({name: partial(run, name) for name in models}, ROUNDS, False, warm_up=2)
    shared: dict[tuple, list[float]] = {}
    for name, seconds in times.items():
        milliseconds = [1000 * each for each in seconds]
        shared.setdefault(_network(name, costs, models), []).extend(milliseconds)
    for name in models:
        found = shared[_network(name, costs, models)]
        costs[name].milliseconds = median(found)
        costs[name].spread = (min(found), max(found))


def _network(name: str, costs: Mapping[str, Cost], models: Mapping[str, Plain]) -> tuple:
    """What two models have in common only where they compute the same with other weights."""
    cost = costs[name]
    return type(models[name].model), cost.parameters, cost.flops or name, cost.shape


def machine() -> str:
    """What computes here, and on how many threads."""
    facts = Path('/proc/cpuinfo')
    named = facts.is_file() and re.search(r'^model name\s*: (.+)$', facts.read_text(), re.MULTILINE)
    threads = torch.get_num_threads()
    return f'{named[1] if named else platform.machine()}, {threads} thread' + 's' * (threads > 1)
