"""Time one training step of a pair: plain, with our distillation, and with mmdet's own LD detector.

python tools/benchmark.py
python tools/benchmark.py --pair faster_rcnn   # Chen 2017, which mmdet has nothing to compare with

All subjects take turns in one process, so that a busy machine slows all alike; the table shows
medians. Peak memory comes from one fresh process per subject. Weights are random and images are
noise: the time does not depend on them, but for the number of positives (7 boxes per image).
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from mmengine.utils.dl_utils import collect_env
from torch import nn

from kd_dense import MODELS
from kd_dense.hosts import build_model, read_model_config
from kd_dense.views import Batch

PAIRS = {  # the configs of teacher, student and distiller
    'gfl': (
        'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        'configs/_base_/gfl_r18_coco.py',
        'configs/ld_r18.py',
    ),
    'faster_rcnn': (
        'mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        'configs/_base_/faster_rcnn_r18_coco.py',
        'configs/chen2017_faster_rcnn_r18_coco.py',
    ),
}
LD_DETECTOR = 'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py'
BOXES_PER_IMAGE = 7
PROPOSALS_PER_IMAGE = 512


def model_config(name: str) -> ConfigDict:
    """Model part of a config, without anything to download."""
    config = read_model_config(name, 'student')
    config.backbone.init_cfg = None
    return config


def our_config(dtype: str, pair: str = 'gfl', only: str | None = None) -> dict:
    """The distiller of the pair's shipped config, or one of its losses."""
    teacher, student, distiller = PAIRS[pair]
    losses = Config.fromfile(distiller).model.losses.to_dict()
    losses = {name: loss for name, loss in losses.items() if loss.get('weight') != 0}
    return dict(
        type='kd_dense.Distiller',
        student=model_config(student),
        teacher=dict(config=model_config(teacher), dtype=dtype, untrained=True),
        losses={name: loss for name, loss in losses.items() if only in (None, name)},
    )


def mmdet_ld() -> nn.Module:
    """mmdet's own LD detector on the same pair (its teacher builds itself, from a config)."""
    config = model_config(LD_DETECTOR)
    config.teacher_config = ConfigDict(model=model_config(PAIRS['gfl'][0]))
    config.teacher_config.model.pop('_scope_')
    config.teacher_ckpt = None
    return build_model(config)


def noise_batch(images: int, size: int, num_classes: int = 80) -> dict:
    """What a dataloader gives: uint8 images and boxes of 16 pixels to half the image."""
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        low = torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * size / 2
        extent = 16 + torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * (size / 2 - 16)
        labels = torch.randint(0, num_classes, (BOXES_PER_IMAGE,), generator=generator)
        sample = DetDataSample(
            gt_instances=InstanceData(bboxes=torch.cat([low, low + extent], 1), labels=labels),
            metainfo=dict(img_shape=(size, size), scale_factor=(1.0, 1.0)),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()
        )
        samples.append(sample)
    image = torch.randint(0, 256, (images, 3, size, size), generator=generator, dtype=torch.uint8)
    return dict(inputs=list(image), data_samples=samples)


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, data: dict) -> None:
    """Forward, backward and update."""
    optimizer.zero_grad()
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    optimizer.step()


def teacher_forward(model: nn.Module, data: dict) -> None:
    """The teacher as mmdet runs it, no gradients: trunk and heads, on as many proposals."""
    with torch.no_grad():
        batch = model.data_preprocessor(copy.deepcopy(data), True)
        features = model.extract_feat(batch['inputs'])
        if hasattr(model, 'bbox_head'):
            model.bbox_head(features)
        else:
            model.rpn_head(features)
            model.roi_head._bbox_forward(features, noise_proposals(batch['inputs']))


def noise_proposals(images: torch.Tensor) -> torch.Tensor:
    """As many proposals as the student samples: (image, x1, y1, x2, y2) in pixels, (R, 5)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.arange(len(images)).repeat_interleave(PROPOSALS_PER_IMAGE)[:, None]
    low, extent = torch.rand(2, len(image), 2, generator=generator) * images.shape[-1] / 2
    return torch.cat([image, low, low + extent.clamp(min=16)], dim=1).to(images)


def losses_only(model: nn.Module, data: dict) -> Callable[[], None]:
    """Forward and backward of the distillation losses alone, down to the student's outputs."""
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    batch = Batch(batch['inputs'], batch['data_samples'])
    student = model._view(model.student, batch)
    with student.noting_loss():
        model.student(batch.images, batch.samples, mode='loss')
    teacher = model.teacher.view(batch)
    ours, theirs = model._view(model.student, batch), model._view(model.teacher.model, batch)
    for view, noted, leaf in ((ours, student, True), (theirs, teacher, False)):
        view.features = noted.features
        view.cls_logits = [m.detach().requires_grad_(leaf) for m in noted.cls_logits]
        view.box_logits = [m.detach().requires_grad_(leaf) for m in noted.box_logits]
    ours.assignment = student.assignment
    given = {id(view): dict(vars(view)) for view in (ours, theirs)}

    def run() -> None:
        for view in (ours, theirs):  # forget what the last run derived
            vars(view).clear()
            vars(view).update(given[id(view)])
        sum(loss(ours, theirs) * loss.scale for loss in model.losses.values()).backward()

    return run


def subject(name: str, data: dict, device: str, pair: str = 'gfl') -> Callable[[], None]:
    """One of the things to time, ready to be called."""
    torch.manual_seed(0)
    teacher, student, _ = PAIRS[pair]
    if name == 'teacher forward, plain':
        model = build_model(model_config(teacher)).to(device).eval()
        return partial(teacher_forward, model, data)
    if name == 'student step, plain':
        model = build_model(model_config(student))
    elif name == "mmdet's LD step":
        model = mmdet_ld()
    else:
        dtype = 'bfloat16' if 'bfloat16' in name else 'float32'
        model = MODELS.build(our_config(dtype, pair, 'ld' if 'main' in name else None))
    model.to(device)
    if hasattr(model, 'load_teacher'):
        model.load_teacher()
    model.train()
    if name == 'our losses alone':
        return losses_only(model, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    return partial(training_step, model, optimizer, data)


# mmdet's LD is localization distillation in the main region: the steps with "main" do the same,
# the others add the valuable localization region and classification
SUBJECTS = (
    'student step, plain',
    'teacher forward, plain',
    "mmdet's LD step",
    'our step, main, float32',
    'our step, main, bfloat16',
    'our step, all, float32',
    'our step, all, bfloat16',
    'our losses alone',
)
TWO_STAGE_SUBJECTS = [n for n in SUBJECTS if n.endswith('plain') or 'step, all' in n]


def timed(run: Callable[[], None], device: str) -> float:
    """Seconds of one call."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(name: str, data: dict, device: str, pair: str = 'gfl') -> float:
    """Peak memory in MiB of three runs, in this fresh process."""
    run = subject(name, data, device, pair)
    for _ in range(3):
        run()
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated() / 2**20
    # not getrusage: its maximum is inherited from the process that started this one
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) / 2**10


def memory_in_fresh_process(name: str, args: argparse.Namespace) -> float:
    """Run this script for one subject's memory."""
    command = [sys.executable, __file__, '--memory-of', name]
    command += ['--images', str(args.images), '--size', str(args.size), '--device', args.device]
    command += ['--pair', args.pair]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pair', choices=PAIRS, default='gfl', help='default: %(default)s')
    parser.add_argument('--images', type=int, default=4, help='per step, default: %(default)s')
    parser.add_argument('--size', type=int, default=320, help='in pixels, default: %(default)s')
    parser.add_argument('--rounds', type=int, default=9, help='default: %(default)s')
    parser.add_argument('--device', default='cpu', help='default: %(default)s')
    parser.add_argument('--out', help='write the numbers to this JSON file too')
    parser.add_argument('--no-memory', action='store_true', help='measure time only')
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print the table."""
    args = parse_args()
    warnings.filterwarnings('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    data = noise_batch(args.images, args.size)
    if args.memory_of:
        print(peak_memory(args.memory_of, data, args.device, args.pair))
        return
    print(f'{args.images} x {args.size} x {args.size} on {args.device}, {args.rounds} rounds')
    subjects = SUBJECTS if args.pair == 'gfl' else TWO_STAGE_SUBJECTS
    runs = {name: subject(name, data, args.device, args.pair) for name in subjects}
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for round_ in range(args.rounds + 2):  # two to warm up
        for name, run in runs.items():
            seconds = timed(run, args.device)
            if round_ >= 2:
                times[name].append(seconds)
    del runs
    medians = {name: statistics.median(values) for name, values in times.items()}
    memory = {}
    if not args.no_memory:
        memory = {n: memory_in_fresh_process(n, args) for n in subjects if 'alone' not in n}
    report(medians, memory)
    if args.out:
        environment = {k: str(v) for k, v in collect_env().items()}
        with open(args.out, 'w') as file:
            json.dump(
                dict(seconds=times, medians=medians, peak_mib=memory, environment=environment),
                file,
                indent=1,
            )


def report(medians: dict[str, float], memory: dict[str, float]) -> None:
    """Print the table and the ratios that matter."""
    plain = medians['student step, plain']
    references = {
        'x plain': plain,
        'x student + teacher': plain + medians['teacher forward, plain'],
    }
    if "mmdet's LD step" in medians:
        references['x mmdet LD'] = medians["mmdet's LD step"]
    titles = ''.join(f'{title:>{len(title) + 2}}' for title in references)
    print(f'{"":28}{"median s":>10}{titles}{"peak MiB":>10}')
    for name, seconds in medians.items():
        ratios = ''.join(f'{seconds / of:{len(title) + 2}.2f}' for title, of in references.items())
        peak = f'{memory[name]:10.0f}' if name in memory else ''
        print(f'{name:28}{seconds:10.3f}{ratios}{peak}')
    if 'our losses alone' in medians:
        share = medians['our losses alone'] / medians['our step, all, float32']
        print(f'our losses are {share:.1%} of our step')


if __name__ == '__main__':
    main()
