r"""Distil any student from any teacher, in one command.

kd-dense distill mmdet::gfl/gfl_r50_fpn_1x_coco.py \
    --teacher mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py --checkpoint gfl_r101.pth

Looks at the pair, picks a recipe, writes the composed config to the work directory, where
``kd-dense train`` can run it again, and trains.
"""

import argparse
from pathlib import Path

from mmengine.config import Config

from ..compose import compose, recipes
from ..config_check import check_loops
from ..hosts import isolated_rng
from ..hosts.configs import teachers_of
from ..launch import command_line, common_options, finish_config
from ..losses.build import build_losses
from ..training import train, training_options
from ..unlabelled import use_unlabelled
from . import command_to


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('student', help='config of its training: a path, mmdet:: or mmseg:: name')
    parser.add_argument('--teacher', required=True, help='config of the teacher, as the student')
    parser.add_argument('--checkpoint', required=True, help='of the teacher, a path or URL')
    parser.add_argument(
        '--recipe',
        default='auto',
        help=f'auto (the first that fits), {", ".join(recipes())}, or the path of one of your own',
    )
    parser.add_argument('--data', help='folder of your own data; docs/own_data.md')
    parser.add_argument(
        '--classes', nargs='+', help='names of the classes in --data, where it does not tell them'
    )
    parser.add_argument(
        '--other-classes',
        action='store_true',
        help='the teacher may know other classes than the data; only losses on features allow it',
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='write the composed config, and train nothing'
    )
    training_options(parser)
    common_options(parser)
    return parser.parse_args()


def main() -> None:
    """Compose and train."""
    args = parse_args()
    with command_line(args):
        config, choice = compose(
            args.student,
            args.teacher,
            args.checkpoint,
            args.recipe,
            same_classes=not args.other_classes,
            data=args.data,
            classes=args.classes,
        )
        name = f'{choice.name}_{Path(args.student.split("::")[-1]).stem}'
        finish_config(config, args, name)
        if args.unlabelled is not None:
            use_unlabelled(config, args.unlabelled, args.unlabelled_ratio)
        check_loops(config, 'train', 'val')
        with isolated_rng():  # as the overrides have left them
            build_losses(config.model.get('losses') or {}, list(teachers_of(config.model)))
        for refused, reason in choice.refused.items():
            print(f'The recipe {refused} does not fit this pair: {reason}\n')
        print(f'Recipe: {choice.name} ({choice.path})\n')
        print(text := config.pretty_text)
        path = Path(config.work_dir, f'{name}.py')
        path.parent.mkdir(parents=True, exist_ok=True)
        config = Config(config.to_dict(), text, path)  # with the name that the run goes by
        config.dump(path)
        print(f'The same again: {command_to("train", path)}', flush=True)
        if not args.dry_run:
            train(config, args, str(path))
