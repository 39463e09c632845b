"""Train as a command line says: what ``kd-dense train`` and ``kd-dense distill`` share."""

from __future__ import annotations

import argparse
from logging import WARNING
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from .check import before_training
from .errors import SetupError
from .hooks import AroundStepHook
from .hosts.checkpoints import checkpoints_of, is_whole
from .hosts.configs import check_data, is_distiller
from .launch import scale_learning_rate, use_mixed_precision
from .record import recorded


def training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that mmdet users expect of a training, and ours."""
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from a checkpoint; without a path: from the latest in the work directory',
    )
    parser.add_argument(
        '--no-check', action='store_true', help='train even where a check finds something wrong'
    )


def newest(work_dir: str) -> str | None:
    """The newest whole checkpoint of a work directory; says what it passes over.

    A training that is killed while it writes may leave half a file, or a note (``last_checkpoint``)
    that is empty or names a file that is gone.
    """
    for path in checkpoints_of(Path(work_dir)):
        if is_whole(path):
            return str(path)
        print_log(f'{path} is cut short: going on from the one before.', 'current', WARNING)
    print_log(f'There is nothing to resume in {work_dir}: starting anew.', 'current', WARNING)
    return None


def check_length(config: Config) -> None:
    """Check that a training has a step.

    Raises:
        SetupError: it ends before it begins.
    """
    for key in ('max_iters', 'max_epochs'):
        length = (config.get('train_cfg') or {}).get(key)
        if length is not None and length < 1:
            raise SetupError(f'train_cfg.{key} is {length}: nothing would be trained.')


def train(config: Config, args: argparse.Namespace, name: str) -> None:
    """Train; data, teacher and pair are checked before.

    Args:
        config: of a distiller or a plain model.
        args: with the options of :func:`training_options`.
        name: of the config, for messages.

    Raises:
        FileNotFoundError: data or teacher are not there.
        SetupError: something does not fit.
    """
    if args.amp:
        use_mixed_precision(config)
    if args.auto_scale_lr:
        scale_learning_rate(config)
    if args.resume is not None:
        config.load_from = newest(config.work_dir) if args.resume == 'auto' else args.resume
        config.resume = config.load_from is not None
    check_length(config)
    check_data(config, ('train_dataloader', 'val_dataloader'))
    runner = Runner.from_cfg(config)
    if is_distiller(config):
        if not any(isinstance(hook, AroundStepHook) for hook in runner.hooks):
            runner.register_hook(AroundStepHook())
        model = getattr(runner.model, 'module', runner.model)
        if not args.no_check:
            report = before_training(config, model, name)
            report.refuse()
            runner.logger.info(report.as_lines())
        model.load_teacher()  # before the data is read: a wrong teacher is seen in seconds
    with recorded(config, name):
        runner.train()
