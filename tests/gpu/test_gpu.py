"""What needs a GPU: mixed precision with a loss scale, NCCL, channels last, pinned views, memory.

`make gpu` runs these. ``KD_DENSE_TEST_DEVICE=cpu`` runs what a CPU can, to try them.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from kd_dense import MODELS
from kd_dense.benchmark import (
    OURS,
    PLAIN,
    NoiseSet,
    Subjects,
    noise_boxes,
    noise_images,
    peak_of,
)
from kd_dense.compose import read_recipe, recipes
from kd_dense.launch import use_mixed_precision
from kd_dense.store import Store
from kd_dense.store.dataset import FromStore, SeededPipeline
from tests.helpers import models, segmentation, two_stage
from tests.helpers.models import distiller, free_port, gradients, raw_batch
from tests.helpers.processes import in_ranks

DEVICE = os.environ.get('KD_DENSE_TEST_DEVICE', 'cuda')
ON_GPU = DEVICE == 'cuda'
GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(ON_GPU and not GPUS, reason='there is no CUDA device')
SGD = dict(type='SGD', lr=0.01)
HOSTS = {  # family: small student, wider teacher, batch
    'one stage': (models.gfl(), models.gfl(channels=32), raw_batch),
    'two stages': (two_stage.faster_rcnn(), two_stage.faster_rcnn(channels=32), raw_batch),
    'segmentor': (segmentation.segmentor(), segmentation.segmentor(16), segmentation.raw_batch),
}
RECIPES = {
    'one stage': 'ld bckd crosskd dist_one_stage merit_one_stage cwd_features mgd pkd fgd hint',
    'two stages': 'chen2017 dist_two_stage dkd merit_two_stage mgd_two_stage pkd_two_stage hint',
    'segmentor': 'structured cwd dist merit mgd_segmentation pkd hint',
}
CASES = [(family, recipe) for family, names in RECIPES.items() for recipe in names.split()]
WRAPPERS = {  # how a config asks for each precision
    'float32': dict(type='OptimWrapper'),
    'float16': dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic'),
    'bfloat16': dict(type='AmpOptimWrapper', dtype='bfloat16'),
}


def build(config: dict) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(config))
    model.init_weights()
    for name, parameter in model.student.named_parameters():
        if 'cls' in name and parameter.dim() > 1:
            parameter.data.normal_(std=0.1)  # or all scores are alike, and there is nothing to rank
    model.to(DEVICE)
    model.load_teacher()
    return model.train()


def by_recipe(family: str, recipe: str) -> dict:
    """A distiller with all losses of a recipe."""
    student, teacher, _ = HOSTS[family]
    losses = read_recipe(recipes()[recipe]).losses
    for loss in losses.values():
        if loss.get('weight') == 0:
            loss['weight'] = 1.0
    teacher = dict(config=teacher, untrained=True)
    return dict(type='kd_dense.Distiller', student=student, teacher=teacher, losses=losses)


def wrapper_of(model: Any, precision: str) -> Any:
    config: dict[str, Any] = dict(optimizer=SGD) | WRAPPERS['float32']
    if any(loss.own_module() is not None for loss in model.losses.values()):
        config = dict(
            constructor='kd_dense.AdversarialOptimWrapperConstructor',
            student=config,
            discriminator=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4)),
        )
    found = Config(dict(optim_wrapper=config))
    if precision != 'float32':
        changed = found.optim_wrapper.get('student', found.optim_wrapper)
        changed.update(WRAPPERS[precision])
        if not ON_GPU:
            use_mixed_precision(found)
    return build_optim_wrapper(model, found.optim_wrapper)


@pytest.mark.parametrize('precision', ['float16', 'bfloat16'])
@pytest.mark.parametrize(('family', 'recipe'), CASES)
def test_a_step_in_half_precision_is_near_the_one_in_float32(family, recipe, precision):
    if precision == 'float16' and not ON_GPU:
        pytest.skip('mmengine scales losses on GPUs only')
    logs = []
    for each in ('float32', precision):
        model = build(by_recipe(family, recipe))
        wrapper = wrapper_of(model, each)
        torch.manual_seed(1)  # of samplers
        logs.append(model.train_step(HOSTS[family][2](), wrapper))
        again = model.train_step(HOSTS[family][2](), wrapper)
        assert all(value.isfinite().all() for value in (*logs[-1].values(), *again.values()))
        assert all(p.isfinite().all() for p in model.student.parameters())
    taught = [name for name in logs[0] if name.startswith('loss_kd_')]
    assert any(logs[0][name] != 0 for name in taught)
    whole = [sum(log[name].item() for name in taught) for log in logs]
    assert whole[1] == pytest.approx(whole[0], rel=0.1, abs=1e-3)


def reduced(rank: int, ranks: int, folder: Path, port: str) -> None:
    """Write the gradients of a step of so many ranks, each with its share of four images."""
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, RANK=str(rank))
    if ON_GPU:
        torch.cuda.set_device(rank)
    backend = 'nccl' if ON_GPU else 'gloo'
    torch.distributed.init_process_group(backend, rank=rank, world_size=ranks)
    config = distiller()
    config['student']['backbone']['norm_eval'] = True
    model = build(config)
    parallel = DistributedDataParallel(model, device_ids=[rank] if ON_GPU else None)
    size = (128, 160)  # of all, or the canvas of a share is not that of all four
    boxes = noise_boxes(4, size, models.NUM_CLASSES)
    data = dict(inputs=noise_images(4, size), data_samples=boxes)
    share = slice(rank * 4 // ranks, (rank + 1) * 4 // ranks)
    data = model.data_preprocessor({key: value[share] for key, value in data.items()}, True)
    losses = parallel(**data, mode='loss')
    model.parse_losses(losses)[0].backward()
    if rank == 0:
        torch.save(gradients(model.student), folder / f'{ranks}.pth')
    torch.distributed.destroy_process_group()


def test_ranks_by_nccl_equal_one(tmp_path):
    """One rank runs through NCCL wherever there is a GPU; two where there are two."""
    numbers = (1, 2) if GPUS > 1 or not ON_GPU else (1,)
    for number in numbers:
        in_ranks(reduced, number, tmp_path, free_port(), number=number)
    found = [torch.load(tmp_path / f'{number}.pth') for number in numbers]
    assert found[0] and all(value.isfinite().all() for value in found[0].values())
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_a_fast_teacher_answers_as_the_slow_one(dtype):
    """Channels last, batch norms folded."""
    if dtype == 'float16' and not ON_GPU:
        pytest.skip('float16 is for GPUs')
    values = []
    for given in (dict(fast=False), dict(dtype=dtype)):
        teacher = dict(config=models.gfl(channels=32), untrained=True, **given)
        model = build(distiller(teacher=teacher))
        data = model.data_preprocessor(raw_batch(), True)
        values.append({n: v.item() for n, v in model(**data, mode='loss').items() if 'kd' in n})
    assert len(values[0]) == 4
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, rel=1e-4 if dtype == 'float32' else 0.1)


def test_stored_views_are_pinned_and_equal_the_teacher(tmp_path):
    subjects = Subjects('gfl', 2, (96, 128), DEVICE, str(tmp_path))
    name = 'our step, all, stored'
    subjects.write_store(name)
    dataset = Shown(subjects)
    options: dict[str, Any] = dict(batch_size=2, num_workers=1, pin_memory=ON_GPU)
    data = next(iter(DataLoader(dataset, collate_fn=pseudo_collate, **options)))
    kept = [each for each in data['data_samples'][0].stored.values() if torch.is_tensor(each)]
    assert kept and all(each.is_pinned() == ON_GPU for each in kept)
    values = []
    for how in ('stored', 'float32'):
        torch.manual_seed(0)
        model = MODELS.build(subjects.our_config(f'our step, all, {how}')).to(DEVICE)
        model.load_teacher()
        found = model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss')
        values.append({n: v.item() for n, v in found.items() if 'kd' in n})
    for loss, value in values[0].items():
        assert values[1][loss] == pytest.approx(value, rel=5e-3)


class Shown(torch.utils.data.Dataset):
    """The images of a benchmark, with what its store holds."""

    def __init__(self, subjects: Subjects) -> None:
        self.noise = NoiseSet(subjects.data)
        self.read = FromStore(SeededPipeline.of(self.noise, 0), Store(str(subjects.store)))

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, index: int) -> dict:
        return self.read(self.noise.get_data_info(index))


@pytest.mark.skipif(not ON_GPU, reason='the memory of a CPU is measured in processes of their own')
@pytest.mark.parametrize('pair', ['gfl', 'faster_rcnn', 'pspnet'])
def test_memory_is_bounded(pair):
    subjects = Subjects(pair, 4, (320, 320), DEVICE)
    plain, ours = (peak_of(name, subjects) for name in (PLAIN, OURS[0]))
    assert ours <= 1.1 * (plain + subjects.teacher_mib())
