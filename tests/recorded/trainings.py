"""Twenty seeded steps of one distillation of each family: what they computed once is kept.

python -m tests.recorded.trainings            # record anew, after a formula was changed on purpose
python -m tests.recorded.trainings --exact F  # into or against a file F, bit for bit
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from torch import nn

from kd_dense import MODELS
from tests.helpers import models, pairs, segmentation, two_stage

STEPS = 20
FILE = Path(__file__).with_name('trainings.json')
# what is kept in the file: processors round otherwise, and a training carries that on from step to
# step (by 5e-3 after twenty at the learning rate of the exact record), so its steps are small
LR, LR_EXACT = 1e-6, 1e-3
PLAIN = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=LR, momentum=0.9))
ADVERSARIAL = dict(
    constructor='kd_dense.AdversarialOptimWrapperConstructor',
    student=PLAIN,
    discriminator=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4)),
)


def _detection(student: dict, teacher: dict, losses: dict) -> dict[str, Any]:
    distiller = dict(
        type='kd_dense.Distiller',
        student=student,
        teacher=dict(config=teacher, untrained=True),
        losses=losses,
    )
    return dict(distiller=distiller, batch=pairs.raw, optimizer=PLAIN)


def _segmentation(losses: dict, optimizer: dict = PLAIN) -> dict[str, Any]:
    def batch(seed: int) -> dict:
        return segmentation.raw_batch(seed=seed)

    distiller = segmentation.distiller(losses)
    return dict(distiller=distiller, batch=batch, optimizer=optimizer)


def families() -> dict[str, dict[str, Any]]:
    """One distillation of each family: its config, its batches by seed, its optimizer."""
    soft = dict(type='kd_dense.ClassWeightedSoftCrossEntropy', mu=0.5, background_weight=1.5)
    bounded = dict(type='kd_dense.BoundedRegression', weight=0.5)
    localization = dict(type='kd_dense.LocalizationDistillation', weight=0.25)
    return dict(
        gfl_ld=_detection(
            models.gfl(),
            models.gfl(channels=32),
            dict(
                ld=localization | dict(region='main'),
                vlr=localization | dict(region='vlr'),
                cls=dict(
                    type='kd_dense.SoftTargets',
                    region='main',
                    temperature=2,
                    activation='softmax',
                    over_classes='mean',
                    weight=10,
                ),
                imitation=dict(type='kd_dense.FeatureImitation', region='all', weight=2),
            ),
        ),
        faster_rcnn_chen2017=_detection(
            two_stage.faster_rcnn(),
            two_stage.faster_rcnn(channels=32),
            dict(
                hint=dict(type='kd_dense.FeatureImitation', adapter='conv1x1', weight=0.5),
                rpn_cls=soft | dict(part='rpn'),
                roi_cls=soft | dict(part='roi'),
                rpn_reg=bounded | dict(part='rpn'),
                roi_reg=bounded | dict(part='roi'),
            ),
        ),
        pspnet_structured=_segmentation(
            dict(
                pixel=dict(type='kd_dense.PixelWise', weight=10.0),
                pair=dict(type='kd_dense.PairWise', weight=10.0),
                holistic=dict(type='kd_dense.Holistic', width=(8, 8, 16, 16), weight=0.1),
            ),
            ADVERSARIAL,
        ),
        pspnet_cwd=_segmentation(dict(cwd=dict(type='kd_dense.ChannelWise'))),
        retinanet_pkd_from_gfl=_detection(
            pairs.retina(),
            models.gfl(channels=32),
            dict(pkd=dict(type='kd_dense.PearsonDistillation', weight=10.0)),
        ),
    )


def train(
    distiller: dict, batch: Any, optimizer: dict, lr: float
) -> tuple[list[dict[str, float]], nn.Module]:
    """Train for some steps; return the logged losses of each, and the model."""
    torch.manual_seed(0)
    model = MODELS.build(distiller)
    model.init_weights()
    for part in (model.student, model.teacher.model):
        _spread(part)
    model.train()
    wrapper = build_optim_wrapper(model, optimizer)
    for part in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        if isinstance(part.optimizer, torch.optim.SGD):
            part.optimizer.param_groups[0]['lr'] = lr
    logs = []
    for step in range(STEPS):
        values = model.train_step(batch(seed=step), wrapper)
        logs.append({k: float(v) for k, v in values.items() if 'loss' in k})
    return logs, model


def _spread(model: nn.Module) -> None:
    """Give heads weights that say something: of heads at their start the losses are next to 0."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if 'head' in name and isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(std=0.5 / module.weight[0].numel() ** 0.5)


def record(family: dict[str, Any], lr: float = LR) -> dict[str, Any]:
    """The losses of each step, and sums over the weights at the end."""
    logs, model = train(**family, lr=lr)
    weights = [p.detach().double() for p in model.parameters()]
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return dict(
        losses={name: [step[name] for step in logs] for name in logs[0]},
        weights=dict(
            sum=sum(float(w.sum()) for w in weights), norm=sum(float(w.norm()) for w in weights)
        ),
        digest=digest.hexdigest(),
    )


def main() -> None:
    """Record all families; see the top of this file."""
    torch.set_num_threads(1)
    exact = '--exact' in sys.argv
    lr = LR_EXACT if exact else LR
    found = {name: record(family, lr) for name, family in families().items()}
    if not exact:
        for each in found.values():
            del each['digest']  # other processors round otherwise
        FILE.write_text(json.dumps(found, indent=1) + '\n')
        return
    file = Path(sys.argv[-1])
    if not file.exists():
        file.write_text(json.dumps(found))
        print(f'{file} written')
        return
    before = json.loads(file.read_text())
    for name, each in found.items():
        print(name, 'equal bit for bit' if each == before[name] else 'DIFFERENT')


if __name__ == '__main__':
    main()
