"""Train a distilled student, a teacher, or a student alone.

python tools/train.py configs/ld_r18.py
"""

import argparse

from kd_dense.launch import command_line, common_options, read_config, train


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
        train(read_config(args), args)


if __name__ == '__main__':
    main()
