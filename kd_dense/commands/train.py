"""Train a distilled student, a teacher, or a student alone.

kd-dense train configs/ld_r18.py
"""

import argparse

from ..launch import command_line, common_options, read_config
from ..training import train, training_options


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of the training')
    training_options(parser)
    common_options(parser)
    return parser.parse_args()


def main() -> None:
    """Train."""
    args = parse_args()
    with command_line(args):
        train(read_config(args), args, args.config)
