"""Examine a distillation before it is trained: what is wrong, and the way out.

kd-dense check configs/ld_r18.py

Exits with status 1 where something is wrong. Nothing is written, and nothing fetched that training
would not fetch.
"""

import argparse
import io
import json
import os
import shutil
import sys
import warnings
from contextlib import redirect_stdout

from mmengine.logging import MMLogger

from ..check import WARNING, WRONG, examine
from ..launch import at_least, command_line, override_options, read_config


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('--checkpoint', help="of the student, instead of the config's load_from")
    parser.add_argument(
        '--validate',
        type=at_least(0),
        default=0,
        metavar='N',
        help='evaluate the teacher, and a student with a checkpoint, on N validation images',
    )
    parser.add_argument(
        '--steps', type=at_least(0), default=3, help='of training to time; default: %(default)s'
    )
    parser.add_argument('--json', action='store_true', help='print JSON, and nothing else')
    parser.add_argument('--strict', action='store_true', help='exit with 1 for warnings too')
    override_options(parser)
    return parser.parse_args()


def main() -> None:
    """Examine, print, and exit with what was found."""
    args = parse_args()
    warnings.filterwarnings('ignore')
    with redirect_stdout(sys.stderr):  # where it logs then
        MMLogger.get_instance('kd_dense.check', log_level='WARNING')
    # the report alone goes to stdout; what the hosts print is not shown
    with command_line(args), redirect_stdout(io.StringIO()):
        config = read_config(args)
        report = examine(config, args.config, args.checkpoint, args.steps, args.validate)
    if args.json:
        print(json.dumps(report.as_dict(), indent=1, allow_nan=False))
    else:
        width = min(shutil.get_terminal_size().columns, 120)
        colour = sys.stdout.isatty() and 'NO_COLOR' not in os.environ
        print(report.as_table(width, colour))
    sys.exit(bool(report.findings(WRONG, *[WARNING] * args.strict)))
