"""Time one training step of a pair: plain, with our distillation, and with mmdet's own LD detector.

kd-dense benchmark
kd-dense benchmark --pair faster_rcnn   # Chen 2017, which mmdet has nothing to compare with
kd-dense benchmark --pair pspnet        # structured distillation, its discriminator included

All subjects take turns in one process, so that a busy machine slows all alike; the table shows
medians. Peak memory comes from one fresh process per subject. Weights are random and images are
noise: the time does not depend on them, but for the number of positives (7 boxes per image).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings

from mmengine.logging import MMLogger
from mmengine.utils.dl_utils import collect_env

from ..benchmark.subjects import CRITIC, LOSSES, PAIRS, Subjects
from ..launch import at_least, command_line, edge_options
from ..measure import all_seconds, medians, peak_memory
from ..text_table import text_table


def memory_in_fresh_process(name: str, args: argparse.Namespace) -> float:
    """Run this command for one subject's memory."""
    command = [sys.executable, '-m', __spec__.name, '--memory-of', name]
    command += ['--images', str(args.images), '--size', str(args.size), '--device', args.device]
    command += ['--pair', args.pair]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pair', choices=PAIRS, default='gfl', help='default: %(default)s')
    parser.add_argument(
        '--images', type=at_least(1), default=4, help='per step, default: %(default)s'
    )
    parser.add_argument(
        '--size', type=at_least(32), default=320, help='in pixels, default: %(default)s'
    )
    parser.add_argument('--rounds', type=at_least(1), default=9, help='default: %(default)s')
    parser.add_argument('--device', default='cpu', help='default: %(default)s')
    parser.add_argument('--out', help='write the numbers to this JSON file too')
    parser.add_argument('--no-memory', action='store_true', help='measure time only')
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    edge_options(parser, checkpoints=False)
    return parser.parse_args()


def main() -> None:
    """Measure and print the table."""
    args = parse_args()
    with command_line(args):
        run(args)


def run(args: argparse.Namespace) -> None:
    """Measure and print the table, or one number for the process that asked for it."""
    on_gpu = args.device.startswith('cuda')
    warnings.filterwarnings('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    subjects = Subjects(args.pair, args.images, args.size, args.device)
    if args.memory_of:
        run = subjects.make(args.memory_of)
        for _ in range(3):
            run()
        print(peak_memory(on_gpu))
        return
    print(f'{args.images} x {args.size} x {args.size} on {args.device}, {args.rounds} rounds')
    names, floor = PAIRS[args.pair].subjects, PAIRS[args.pair].floor
    runs = {name: subjects.make(name) for name in names}
    times = all_seconds(runs, args.rounds, on_gpu, warm_up=2)
    del runs
    middle = medians(times)
    memory = {}
    if not args.no_memory:
        memory = {n: memory_in_fresh_process(n, args) for n in names if n not in (CRITIC, LOSSES)}
    report(middle, memory, floor)
    if args.out:
        environment = {k: str(v) for k, v in collect_env().items()}
        with open(args.out, 'w') as file:
            json.dump(
                dict(seconds=times, medians=middle, peak_mib=memory, environment=environment),
                file,
                indent=1,
            )


def report(middle: dict[str, float], memory: dict[str, float], floor: tuple[str, ...]) -> None:
    """Print the table and the ratios that matter."""
    together = ' + '.join(name.split()[0] for name in floor)
    references = {
        'x plain': middle[floor[0]],
        f'x {together}': sum(middle[name] for name in floor),
    }
    if "mmdet's LD step" in middle:
        references['x mmdet LD'] = middle["mmdet's LD step"]
    rows = []
    for name, seconds in middle.items():
        ratios = (f'{seconds / of:.2f}' for of in references.values())
        peak = f'{memory[name]:.0f}' if name in memory else ''
        rows.append((name, f'{seconds:.3f}', *ratios, peak))
    print(*text_table(rows, ('', 'median s', *references, 'peak MiB'), right=True), sep='\n')
    if LOSSES in middle:
        share = middle[LOSSES] / middle['our step, all, float32']
        print(f'our losses are {share:.1%} of our step')


if __name__ == '__main__':
    main()
