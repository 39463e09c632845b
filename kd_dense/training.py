"""Train as a command line says: what ``kd-dense train`` and ``kd-dense distill`` share."""

from __future__ import annotations

import argparse

from mmengine.config import Config
from mmengine.runner import Runner

from .check import before_training
from .hooks import AroundStepHook
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
        config.resume = True
        config.load_from = None if args.resume == 'auto' else args.resume
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
