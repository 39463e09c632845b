"""Train the stages of a chain file: teachers, assistants, students, and their controls.

kd-dense chain configs/chains/demo.py

What is done is skipped, what was interrupted goes on, and at the end one table tells what came out.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..chain import Chain, Job, doubts, finished, read_chain, run_chain, summary
from ..chain.assistants import candidates, ranking, write_chain
from ..chain.rows import as_list, main_metric
from ..chain.run import prepare, to_train
from ..chain.stage_config import length
from ..chain.training import Means
from ..errors import SetupError
from ..launch import at_least, command_line, edge_options
from ..text_table import text_table
from . import command_to

PASSED_ON = ('amp', 'trust_checkpoint', 'allow_http', 'traceback')  # to each training


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('file', nargs='?', help='docs/chains.md says how to write one')
    parser.add_argument(
        '--suggest-assistants',
        nargs=3,
        metavar=('N', 'STUDENT', 'TEACHER'),
        help='train N models between two configs alone, for a tenth, and rank them as assistants',
    )
    parser.add_argument(
        '--table',
        choices=['text', 'markdown'],
        help='show what is done, or was kept in the folder of rows, and train nothing',
    )
    parser.add_argument('--only', nargs='+', default=[], help='stages, and what they need')
    chain_options(parser)
    args = parser.parse_args()
    if (args.file is None) == (args.suggest_assistants is None):
        parser.error('name a chain file, or take --suggest-assistants')
    if args.suggest_assistants and not args.suggest_assistants[0].isdigit():
        parser.error('--suggest-assistants takes a number, a student and a teacher')
    return args


def chain_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`run`."""
    parser.add_argument('--dry-run', action='store_true', help='show the stages, train nothing')
    parser.add_argument(
        '--seeds', nargs='+', type=int, help='train all for each of them; default: of the file'
    )
    parser.add_argument(
        '--side-by-side', type=at_least(1), help='trainings at once; default: of the file, or 1'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='of the trainings'
    )
    parser.add_argument('--gpus', type=at_least(1), default=1, help='of each training')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--no-report', action='store_true', help='write no page at the end')
    edge_options(parser)


def main() -> None:
    """Prepare, train, tell."""
    args = parse_args()
    with command_line(args):
        if args.suggest_assistants:
            suggest(args)
            return
        chain = read_chain(args.file, args.seeds)
        if args.table:
            jobs, markdown = chain.chosen(args.only), args.table == 'markdown'
            lines = summary(chain, finished(jobs, kept='rows' in chain.settings), markdown)
            lines += as_list(doubts(jobs)) if markdown else doubts(jobs)
            print('\n'.join(lines))
        else:
            run(chain, args, args.only)


def run(chain: Chain, args: argparse.Namespace, only: Sequence[str] = ()) -> None:
    """Train what is not done of a chain, and tell what came out.

    Args:
        chain: as read.
        args: with the options of :func:`chain_options`.
        only: names of stages; all without names.

    Raises:
        SetupError: ranks without a launcher, a launcher that is not here, or a stage failed.
    """
    if args.gpus > 1 and args.launcher == 'none':
        raise SetupError('--gpus of a training are ranks: add --launcher pytorch, or slurm.')
    if args.launcher == 'slurm' and shutil.which('srun') is None:
        raise SetupError(
            '--launcher slurm starts each training by srun, and there is none on this machine. '
            'Start the chain on a node of the cluster, or take --launcher pytorch.'
        )
    if args.dry_run:
        print('\n'.join(planned(chain, chain.chosen(only))))
        return
    prepare(chain)  # before the first look at a fingerprint, in which data counts
    jobs = chain.chosen(only)
    passed = [f'--{name.replace("_", "-")}' for name in PASSED_ON if getattr(args, name)]
    side_by_side = args.side_by_side or chain.settings.get('side_by_side', 1)
    try:
        failed = run_chain(chain, Means(side_by_side, args.gpus, args.launcher, passed), only)
    except KeyboardInterrupt:
        raise SystemExit('\nInterrupted; the same command goes on from here.') from None
    print('', *summary(chain, finished(jobs)), sep='\n', flush=True)
    if not args.no_report:
        show(chain, jobs)
    if failed:
        raise SetupError(' '.join(failed) + ' The same command tries again.')


def suggest(args: argparse.Namespace) -> None:
    """Show models between a student and a teacher, train them for a tenth, and rank them."""
    number, student, teacher = args.suggest_assistants
    found = candidates(student, teacher, int(number))
    sizes = [(each.name, f'{each.parameters / 1e6:.2f} M',
              f'{each.flops / 1e9:.2f} G' if each.flops else '') for each in found]  # fmt: skip
    header = ('model', 'parameters', 'FLOPs at 320x320')
    print('\n'.join(text_table(sizes, header, right=True)), flush=True)
    folder = Path('work_dirs', 'assistants', f'{Path(student).stem}_{Path(teacher).stem}')
    file = write_chain(student, teacher, found, folder)
    print(f'\nEach alone, for a tenth of the schedule: {command_to("chain", file)}\n', flush=True)
    args.no_report = True
    chain = read_chain(file, args.seeds)
    run(chain, args)
    if not args.dry_run:
        rows = finished(chain.jobs)
        if metric := main_metric([row for each in rows.values() for row in each], chain):
            print('\nAs assistant, the best first (nearest to the mean of student and teacher):')
            for name, value, distance in ranking(rows, metric):
                print(f'  {folder / name}.py: {metric.title} {value:.1f}, {distance:.1f} from it')


def planned(chain: Chain, jobs: list[Job]) -> list[str]:
    """The stages as a table: what each is, what it needs, and whether it is done."""
    waiting = to_train(jobs)
    lines = []
    for job in chain.jobs:
        if job not in waiting and job not in jobs:
            continue
        steps, unit = length(job.config)
        needs = ', '.join(job.needs)
        what = f'{steps} {"iterations" if unit == "max_iters" else "epochs"}'
        lines.append((job.name, job.stage.title, job.stage.about['config'], what, needs,
                      state(job, job in waiting)))  # fmt: skip
    return text_table(lines, ('stage', 'what', 'config', 'length', 'needs', 'state'))


def state(job: Job, waits: bool) -> str:
    """What would be done with a job."""
    if not waits:
        return 'done' if job.trained else 'done, elsewhere'
    if job.begun:
        return 'begun, goes on'
    if job.folder.exists() and any(job.folder.iterdir()):
        return 'begun otherwise: is moved aside, and trained'
    return 'to train'


def show(chain: Chain, jobs: list[Job]) -> None:
    """Draw curves, write the report of the first seed, and say where students and pictures are."""
    seed = next((job.run_seed for job in jobs if job.run_seed is not None), None)
    logged = [job for job in jobs if job.trained and not job.evaluates]  # a test has no curve
    folders = [str(job.folder) for job in logged if job.run_seed in (None, seed)]
    if not folders:
        return
    kd_dense = [sys.executable, '-m', 'kd_dense']
    curves, page = chain.folder / 'curves.png', chain.folder / 'report.html'
    for command in (['plot', *folders, '--out', curves], ['report', *folders, '--out', page]):
        done = subprocess.run([*kd_dense, *map(str, command)], capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            print(f'no {command[-1]}: {(said or ["it said nothing"])[-1]}')
    made = [path for path in (curves, page) if path.is_file()]
    pictures = [path for job in jobs for path in (job.folder / 'pictures').glob('*.png')]
    print('\npictures and report:')
    for path in [*sorted(pictures, key=os.path.getmtime)[-1:], *made]:
        print(f'  {path}')
    print('checkpoints, for plain mmdet or mmseg:')
    for job in jobs:
        if job.trained and isinstance(path := job.checkpoint(), Path):
            print(f'  {path}')
