"""Build the embedded dataset: handwritten digits in scenes, for detection and segmentation.

kd-dense make-digits data/digits
"""

import argparse
from dataclasses import fields

from ..datasets import SceneSettings, make_digits
from ..errors import SetupError
from ..launch import at_least, command_line, edge_options


def parse_args() -> argparse.Namespace:
    """Read the command line; every field of SceneSettings is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', help='folder to build in')
    parser.add_argument('--seed', type=at_least(0), default=0, help='default: %(default)s')
    parser.add_argument(
        '--train', type=at_least(1), default=2000, help='scenes, default: %(default)s'
    )
    parser.add_argument('--val', type=at_least(1), default=400, help='scenes, default: %(default)s')
    parser.add_argument('--force', action='store_true', help='replace digits of other settings')
    parser.add_argument(
        '--without', nargs='+', default=(), metavar='CLASS', help='in no training scene, e.g. three'
    )
    parser.add_argument(
        '--confuse', nargs=2, default=(), metavar='CLASS', help='exchange their training labels'
    )
    parser.add_argument(
        '--confused', type=float, default=0.3, metavar='SHARE', help='in how many of their objects'
    )
    group = parser.add_argument_group('scenes', 'explained at kd_dense.datasets.SceneSettings')
    for field in fields(SceneSettings):
        option = {'default': field.default, 'help': f'default: {field.default}'}
        if isinstance(field.default, tuple):
            option |= {'type': type(field.default[0]), 'nargs': 2, 'metavar': ('LOW', 'HIGH')}
        else:
            option |= {'type': type(field.default), 'metavar': 'N'}
        group.add_argument(f'--{field.name.replace("_", "-")}', **option)
    edge_options(parser, checkpoints=False)
    return parser.parse_args()


def main() -> None:
    """Build, or say in one line why not."""
    args = parse_args()
    values = {field.name: getattr(args, field.name) for field in fields(SceneSettings)}
    pairs = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    with command_line(args):
        try:
            settings = SceneSettings(**pairs)
            counts = (args.train, args.val, args.seed)
            wrong = dict(without=args.without, confuse=args.confuse, confused=args.confused)
            make_digits(args.out, settings, *counts, force=args.force, **wrong)
        except ValueError as error:
            raise SetupError(str(error)) from error
