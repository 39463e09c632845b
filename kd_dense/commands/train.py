"""Train a distilled student, a teacher, or a student alone.

kd-dense train configs/ld_r18.py
"""

import argparse

from ..errors import SetupError
from ..launch import command_line, common_options, read_config
from ..own_data import use_data
from ..training import train, training_options
from ..unlabelled import use_unlabelled


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of the training')
    parser.add_argument(
        '--data', help='folder of your own data, in the place of that of the config'
    )
    parser.add_argument(
        '--classes', nargs='+', help='names of the classes in --data, where it does not tell them'
    )
    training_options(parser)
    common_options(parser)
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = parse_args()
    with command_line(args):
        config = read_config(args)
        if args.data is not None:
            use_data(config, args.data, args.classes)
        elif args.classes is not None:
            raise SetupError('--classes names those of --data, which was not given.')
        if args.unlabelled is not None:
            use_unlabelled(config, args.unlabelled, args.unlabelled_ratio)
        train(config, args, args.config)
