"""Write one page that shows what a distillation brought: teacher, student alone, distilled student.

kd-dense report work_dirs/TEACHER work_dirs/STUDENT_ALONE work_dirs/DISTILLED
"""

import argparse
from pathlib import Path

from ..launch import at_least, command_line, override_options, share
from ..record import command_used, versions
from ..report import ROLES, read_runs
from ..report.evidence import gather
from ..report.figures import write_sheet
from ..report.page import render
from ..report.progress import write_curves


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dirs', nargs='+', type=Path, help='of the trainings, in any order')
    parser.add_argument('--names', nargs='+', help='of the trainings; default: of their folders')
    parser.add_argument(
        '--roles', nargs='+', choices=ROLES, help='default: recognised from the configs'
    )
    parser.add_argument('--out', type=Path, default=Path('report.html'), help='%(default)s')
    parser.add_argument(
        '--images',
        type=at_least(1),
        default=64,
        help='validation images to predict on, %(default)s',
    )
    parser.add_argument(
        '--show', type=at_least(1), default=4, help='images of each kind, %(default)s'
    )
    parser.add_argument(
        '--score-thr', type=share, default=0.3, help='of objects that count, %(default)s'
    )
    parser.add_argument('--no-predict', action='store_true', help='read logs only, run no model')
    override_options(parser, 'overrides of all configs')
    return parser.parse_args()


def main() -> None:
    """Read, measure, write."""
    args = parse_args()
    with command_line(args):
        runs = read_runs(args.work_dirs, args.names, args.roles, args.cfg_options)
        for run in runs:
            print(f'{run.name}: {run.role} ({run.why})', flush=True)
        images = 0 if args.no_predict else args.images
        evidence = gather(runs, images, args.score_thr)
        made_with = ', '.join(f'{name} {found}' for name, found in versions().items())
        page = render(runs, evidence, command_used(), made_with, args.show)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page, encoding='utf-8')
        print(args.out)
        beside = {p: args.out.with_name(f'{args.out.stem}_{p}.png') for p in ('curves', 'pictures')}
        if write_curves(beside['curves'], runs):
            print(beside['curves'])
        if write_sheet(beside['pictures'], runs, evidence, args.show):
            print(beside['pictures'])
        for text in evidence.missing:
            print(f'not in the report: {text}')
