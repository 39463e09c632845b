"""Train a distilled student, a teacher, or a student alone.

python tools/train.py configs/ld_r18.py
"""

import argparse

from mmengine.runner import Runner

from kd_dense.doctor import as_lines, before_training, refuse
from kd_dense.launch import (
    check_data,
    command_line,
    common_options,
    is_distiller,
    read_config,
    scale_learning_rate,
    use_mixed_precision,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of the training')
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
    common_options(parser)
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = parse_args()
    with command_line():
        config = read_config(args)
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
            model = getattr(runner.model, 'module', runner.model)
            if not args.no_check:
                report = before_training(config, model, args.config)
                refuse(report)
                runner.logger.info(as_lines(report))
            model.load_teacher()  # before the data is read: a wrong teacher is seen in seconds
        runner.train()


if __name__ == '__main__':
    main()
