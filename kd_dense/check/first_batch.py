"""One real batch of the training set: what is in it, and what every loss makes of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from ..errors import SetupError
from ..hooks.balance import STUDENT, find_problems, summarize
from ..hooks.common import restored_afterwards
from ..hooks.loss_balance import measure_distiller
from ..hosts import isolated_rng
from ..hosts.checkpoints import model_state
from ..store import with_stored_views
from ..unlabelled import parted
from ..views import Batch, SegmentationView, TwoStageView, View, host_info, view_class
from .built import Built, as_list
from .findings import WARNING, WRONG, Section
from .weights import announce_pretrained

WARN_ABOVE = 0.9  # as LossBalanceHook's default
MANY_CLASSES = 8


def read_batch(config: Config) -> dict[str, Any]:
    """The first batch of the training set, in the order that the config's seed gives."""
    loader = with_stored_views(copy.deepcopy(config)).train_dataloader
    loader.num_workers, loader.persistent_workers = 0, False
    for key in ('prefetch_factor', 'timeout'):  # of workers
        loader.pop(key, None)
    seed = config.get('randomness', {}).get('seed') or 0
    with isolated_rng(seed):
        return next(iter(Runner.build_dataloader(loader, seed=seed)))


def examine_batch(
    student: nn.Module, batch: dict[str, Any], section: Section, annotated: bool = True
) -> None:
    """Tell what a batch holds, and what the student's own loss takes for positive.

    Args:
        student: the built model.
        batch: as the data loader gives it; it is not changed.
        section: to tell it in.
        annotated: whether the training reads annotations.
    """
    with restored_afterwards(student), section.collect_errors('data'):
        student.train()
        data = student.data_preprocessor(copy.deepcopy(batch), True)
        size = ' x '.join(map(str, data['inputs'].shape[-2:]))
        section.tell('images', f'{len(data["inputs"])} padded to {size} pixels')
        if not annotated:
            return
        labelled, unlabelled = parted(Batch(data['inputs'], data['data_samples']))
        if unlabelled is not None:
            section.tell('without labels', f'{len(unlabelled.batch.images)} of the images')
        if labelled is None:
            return
        view = view_class(student)(student, labelled.batch)
        if isinstance(view, SegmentationView):
            _pixels(view, section)
            return
        if not _boxes(view, host_info(student).num_classes, section):
            return  # the student's own loss would fail on such labels, in other words
        with view.recording(), torch.no_grad():
            student(view.batch.images, view.batch.samples, mode='loss')
        _positives(view, section)


def _boxes(view: View, num_classes: int, section: Section) -> bool:
    """Tell what boxes there are; whether their labels are classes."""
    labels = [sample.gt_instances.labels.cpu() for sample in view.batch.samples]
    empty = sum(not len(each) for each in labels)
    every = torch.cat(labels)
    largest = int(every.max()) if len(every) else -1
    beyond = num_classes and largest >= num_classes
    problem, way_out = '', ''
    if beyond:
        problem = f'A label is {largest}, and the student knows the classes 0 to {num_classes - 1}.'
        way_out = "Set `num_classes` of the student's head to what the data has."
    elif not len(every):
        problem = 'There is no object in the whole batch.'
        way_out = 'Look at `metainfo` (classes of other names are left out) and the annotations.'
    without = f', {empty} image{"s" if empty > 1 else ""} without' if empty else ''
    section.tell(
        'objects',
        f'{len(every)} of {len(every.unique())} classes{without}',
        mark=WRONG if beyond else WARNING,
        problem=problem,
        way_out=way_out,
        objects=len(every),
        images_without=empty,
    )
    return not beyond


def _positives(view: View, section: Section) -> None:
    try:
        positive = view.positives
    except (SetupError, AttributeError):
        section.skipped('positives', f'not known of a {type(view.model).__name__}')
        return
    counts = [int((positive & (view.level_index == i)).sum()) for i in range(len(view.strides))]
    by_stride = dict(zip(view.strides, counts, strict=True))
    objects = sum(len(sample.gt_instances) for sample in view.batch.samples)
    problem = f'{objects} objects, and no prediction of the student is assigned to any.'
    section.tell(
        'positives of the RPN' if isinstance(view, TwoStageView) else 'positives',
        ', '.join(f'{count} at stride {stride:g}' for stride, count in by_stride.items()),
        problem=problem if objects and not sum(counts) else '',
        way_out="Look at sizes of anchors and regression ranges, at the assigner's thresholds and "
        'at the size that images are brought to.',
        by_stride=by_stride,
    )
    if isinstance(view, TwoStageView):
        found, sampled = int(view.roi_positives.sum()), int(view.roi_sampled.sum())
        section.tell('positive proposals', f'{found} of {sampled} sampled', positive=found)


def _pixels(view: SegmentationView, section: Section) -> None:
    share = float(view.valid_pixels.float().mean())
    values = view.labels[view.valid_pixels].unique().tolist()
    num_classes = view.head.num_classes
    problem = f'Every pixel of the batch is ignored (label {view.ignore_index}).'
    section.tell(
        'valid pixels',
        f'{share:.0%}',
        problem='' if values else problem,
        way_out='Look at the label pictures, `reduce_zero_label` and `ignore_index`.',
        share=share,
    )
    if not values:
        return
    listed = f': {", ".join(map(str, values))}' if len(values) <= MANY_CLASSES else ''
    beyond = ', '.join(str(value) for value in values if value >= num_classes)
    problem = f'The labels hold {beyond}, and the student knows the classes 0 to {num_classes - 1}.'
    section.tell(
        'classes',
        f'{len(values)} of {num_classes}{listed}',
        problem=problem if beyond else '',
        way_out="Set `num_classes` of the student's heads to what the data has, or look at "
        '`reduce_zero_label` and the ignored label (255).',
        present=values,
    )


def start_training(
    built: Built,
    checkpoint: Mapping[str, Any] | None,
    optim_wrapper: ConfigDict,
    device: str,
    section: Section,
) -> OptimWrapper | None:
    """Bring a distiller to where its training starts, with its optimizer; None if that fails.

    Its teachers are loaded already; the student starts from the checkpoint, as far as it matches.
    """
    announce_pretrained(built.student)
    with section.collect_errors('start'), isolated_rng(seed=0):
        built.distiller.init_weights()
        if checkpoint is not None:
            load_state_dict(built.student, model_state(checkpoint), strict=False)
        built.distiller.to(device).train()
        return build_optim_wrapper(built.distiller, optim_wrapper)
    return None


def examine_losses(
    built: Built,
    batch: dict[str, Any],
    optimizer: OptimWrapper,
    config: Config,
    section: Section,
) -> None:
    """Value and share of the gradient of every loss on one batch.

    The optimizer's mixed precision is that of the training, whose ``LossBalanceHook`` may say from
    when on a loss drowns others.
    """
    section.columns = ('weight', 'value', 'gradient', 'share')
    hooks = [h for h in as_list(config.get('custom_hooks')) if 'LossBalanceHook' in str(h['type'])]
    warn_above = next((h['warn_above'] for h in hooks if 'warn_above' in h), WARN_ABOVE)
    with section.collect_errors('losses'), isolated_rng(seed=0):
        measured = measure_distiller(built.distiller, batch, optimizer)
        rows = summarize([measured], built.distiller.losses_of_student)
        found = {each.name: each for each in find_problems(rows, warn_above)}
        for name, row in rows.items():
            title = name if name == STUDENT else f'losses.{name}'
            weight = '' if row.weight is None else f'{row.weight:.4g}'
            if row.value is None:
                section.tell(title, weight, 'off')
                continue
            problem = found.get(name)
            section.tell(
                title,
                weight,
                f'{row.value:.4g}',
                f'{row.gradient_norm:.4g}',
                f'{row.share:.0%}',
                problem=problem.text if problem else '',
                mark=WRONG if problem and problem.grave else WARNING,
                **row._asdict(),
            )
