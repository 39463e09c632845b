"""One real batch of the training set: what is in it, and what every loss makes of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ..errors import SetupError
from ..hooks.balance import STUDENT, examine, summarize
from ..hooks.common import restored_afterwards
from ..hooks.loss_balance import measure_distiller
from ..hosts import isolated_rng
from ..hosts.checkpoints import model_state
from ..views import Batch, SegmentationView, TwoStageView, View, host_info, view_class
from .parts import Parts, as_list
from .report import Section
from .weights import announce_pretrained

WARN_ABOVE = 0.9  # as LossBalanceHook's default
MANY_CLASSES = 8


def read_batch(config: Config) -> dict[str, Any]:
    """The first batch of the training set, in the order that the config's seed gives."""
    loader = copy.deepcopy(config.train_dataloader)
    loader.num_workers, loader.persistent_workers = 0, False
    for key in ('prefetch_factor', 'timeout'):  # of workers
        loader.pop(key, None)
    seed = config.get('randomness', {}).get('seed') or 0
    with isolated_rng(seed):
        return next(iter(Runner.build_dataloader(loader, seed=seed)))


def examine_batch(student: nn.Module, batch: dict[str, Any], section: Section) -> None:
    """Tell what a batch holds, and what the student's own loss takes for positive.

    Args:
        student: on its device.
        batch: as the data loader gives it; it is not changed.
        section: where to tell.
    """
    with restored_afterwards(student), section.collect_errors('data'):
        student.train()
        data = student.data_preprocessor(copy.deepcopy(batch), True)
        size = ' x '.join(map(str, data['inputs'].shape[-2:]))
        section.ok('images', f'{len(data["inputs"])} padded to {size} pixels')
        view = view_class(student)(student, Batch(data['inputs'], data['data_samples']))
        if isinstance(view, SegmentationView):
            _pixels(view, section)
            return
        if not _boxes(view, _classes(student), section):
            return  # the student's own loss would fail on such labels, in other words
        with view.recording(), torch.no_grad():
            student(data['inputs'], data['data_samples'], mode='loss')
        _positives(view, section)


def _classes(student: nn.Module) -> int:
    return host_info(student).num_classes


def _boxes(view: View, num_classes: int, section: Section) -> bool:
    """Tell what boxes there are; whether their labels are classes."""
    labels = [sample.gt_instances.labels.cpu() for sample in view.batch.samples]
    empty = sum(not len(each) for each in labels)
    every = torch.cat(labels)
    shown = f'{len(every)} of {len(every.unique())} classes' + (
        f', {empty} image{"s" if empty > 1 else ""} without' if empty else ''
    )
    if num_classes and len(every) and int(every.max()) >= num_classes:
        section.wrong(
            'objects',
            shown,
            problem=f'A label is {int(every.max())}, and the student knows the classes 0 to '
            f'{num_classes - 1}.',
            way_out="Set `num_classes` of the student's head to what the data has.",
        )
        return False
    if not len(every):
        section.warning(
            'objects',
            shown,
            problem='There is no object in the whole batch.',
            way_out='Look at `metainfo` (classes of other names are left out) and the annotations.',
        )
    else:
        section.ok('objects', shown, objects=len(every), images_without=empty)
    return True


def _positives(view: View, section: Section) -> None:
    try:
        positive = view.positives
    except (SetupError, AttributeError):
        section.skipped('positives', f'not known of a {type(view.model).__name__}')
        return
    counts = [int((positive & (view.level_index == i)).sum()) for i in range(len(view.strides))]
    stage = 'positives of the RPN' if isinstance(view, TwoStageView) else 'positives'
    shown = ', '.join(f'{n} at stride {s:g}' for n, s in zip(counts, view.strides, strict=True))
    objects = sum(len(sample.gt_instances) for sample in view.batch.samples)
    if objects and not sum(counts):
        section.wrong(
            stage,
            shown,
            problem=f'{objects} objects, and no prediction of the student is assigned to any.',
            way_out="Look at sizes of anchors and regression ranges, at the assigner's thresholds "
            'and at the size that images are brought to.',
        )
    else:
        section.ok(stage, shown, by_stride=dict(zip(view.strides, counts, strict=True)))
    if isinstance(view, TwoStageView):
        found, sampled = int(view.roi_positives.sum()), int(view.roi_sampled.sum())
        section.ok('positive proposals', f'{found} of {sampled} sampled', positive=found)


def _pixels(view: SegmentationView, section: Section) -> None:
    labels, valid = view.labels, view.valid_pixels
    share = float(valid.float().mean())
    values = labels[valid].unique().tolist()
    num_classes = view.head.num_classes
    if not values:
        section.wrong(
            'valid pixels',
            f'{share:.0%}',
            problem=f'Every pixel of the batch is ignored (label {view.head.ignore_index}).',
            way_out='Look at the label pictures, `reduce_zero_label` and `ignore_index`.',
        )
        return
    section.ok('valid pixels', f'{share:.0%}', share=share)
    beyond = [v for v in values if v >= num_classes]
    shown = f'{len(values)} of {num_classes}'
    if len(values) <= MANY_CLASSES:
        shown += f': {", ".join(map(str, values))}'
    if beyond:
        section.wrong(
            'classes',
            shown,
            problem=f'The labels hold {", ".join(map(str, beyond[:4]))}, and the student knows the '
            f'classes 0 to {num_classes - 1}.',
            way_out="Set `num_classes` of the student's heads to what the data has, or look at "
            '`reduce_zero_label` and the ignored label (255).',
        )
    else:
        section.ok('classes', shown, present=values)


def start_training(
    parts: Parts,
    checkpoint: Mapping[str, Any] | None,
    optim_wrapper: ConfigDict,
    device: str,
    section: Section,
) -> OptimWrapper | None:
    """Bring a distiller to where its training starts, with its optimizer; None if that fails.

    Args:
        parts: with a distiller whose teacher is loaded.
        checkpoint: what the student starts from.
        optim_wrapper: config of its optimizer.
        device: where to run.
        section: where to tell what went wrong.
    """
    announce_pretrained(parts.student)
    with section.collect_errors('start'), isolated_rng(seed=0):
        parts.distiller.init_weights()
        if checkpoint is not None:
            load_matching(parts.student, checkpoint)
        parts.distiller.to(device).train()
        return build_optim_wrapper(parts.distiller, optim_wrapper)
    return None


def load_matching(student: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Load what matches of a checkpoint, as ``load_from`` does."""
    own = student.state_dict()
    state: dict[str, Tensor] = model_state(checkpoint)
    matching = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(matching, strict=False)


def examine_losses(
    parts: Parts,
    batch: dict[str, Any],
    optimizer: OptimWrapper,
    config: Config,
    section: Section,
) -> None:
    """Value and share of the gradient of every loss on one batch.

    Args:
        parts: with a distiller that is ready to train.
        batch: as the data loader gives it; it is not changed.
        optimizer: the distiller's, whose mixed precision is that of the training.
        config: of the training; its ``LossBalanceHook`` may say from when on a loss drowns others.
        section: where to tell.
    """
    section.columns = ('weight', 'value', 'gradient', 'share')
    hooks = [h for h in as_list(config.get('custom_hooks')) if 'LossBalanceHook' in str(h['type'])]
    warn_above = next((h['warn_above'] for h in hooks if 'warn_above' in h), WARN_ABOVE)
    with section.collect_errors('losses'), isolated_rng(seed=0):
        measured = measure_distiller(parts.distiller, batch, optimizer)
        rows = summarize([measured], parts.losses)
        found = {each.name: each for each in examine(rows, warn_above)}
        for name, row in rows.items():
            title = name if name == STUDENT else f'losses.{name}'
            weight = '' if row.weight is None else f'{row.weight:.4g}'
            if row.value is None:
                section.ok(title, weight, 'off')
                continue
            shown = (weight, f'{row.value:.4g}', f'{row.gradient_norm:.4g}', f'{row.share:.0%}')
            if name not in found:
                section.ok(title, *shown, **row._asdict())
                continue
            tell = section.wrong if found[name].grave else section.warning
            tell(title, *shown, problem=found[name].text, **row._asdict())
