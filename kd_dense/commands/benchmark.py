"""Time one training step of a pair: plain, with our distillation, and with mmdet's own LD detector.

kd-dense benchmark
kd-dense benchmark --pair faster_rcnn   # Chen 2017, which mmdet has nothing to compare with
kd-dense benchmark --pair pspnet        # structured distillation, its discriminator included

The steps that end in "stored" read what the teacher says in a store of the images, written before.
All subjects take turns in one process, so that a busy machine slows all alike; the table shows
medians. What our losses take, forward, is of the profiler. Peak memory comes from one fresh
process per subject. Weights are random and images are noise: the time does not depend on them, but
for the number of positives (7 boxes per image).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import MMLogger
from mmengine.utils.dl_utils import collect_env

from ..benchmark import CRITIC, OURS, PAIRS, STORED, Subjects, peak_of
from ..launch import at_least, command_line, edge_options
from ..measure import all_seconds, in_fresh_process, medians, parts_of_step
from ..text_table import text_table

LOSSES = 'our losses, forward'


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
    edge_options(parser, checkpoints=False)
    return parser.parse_args()


def main() -> None:
    """Measure and print the table."""
    args = parse_args()
    with command_line(args), tempfile.TemporaryDirectory() as folder:
        measure(args, folder)


def measure(args: argparse.Namespace, store: str) -> None:
    """Time all subjects in turns, and print the table.

    Args:
        args: of the command line.
        store: an empty folder.
    """
    on_gpu = args.device.startswith('cuda')
    warnings.filterwarnings('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    given = (args.pair, args.images, args.size, args.device, store)
    subjects = Subjects(*given)
    print(f'{args.images} x {args.size} x {args.size} on {args.device}, {args.rounds} rounds')
    names, floor = PAIRS[args.pair].subjects, PAIRS[args.pair].floor
    for name in names:
        if name.endswith(STORED):
            subjects.write_store(name)
    runs = {name: subjects.make(name) for name in names}
    times = all_seconds(runs, args.rounds, on_gpu, warm_up=2)
    parts = [parts_of_step(runs[OURS[0]], on_gpu) for _ in range(args.rounds)]
    times[LOSSES] = [sum(v for k, v in each.items() if k.startswith('losses.')) for each in parts]
    del runs
    middle = medians(times)
    memory = {}
    if not args.no_memory:
        memory = {n: in_fresh_process(peak_of, n, *given) for n in names if n != CRITIC}
    report(middle, memory, floor)
    if args.out:
        environment = {k: str(v) for k, v in collect_env().items()}
        found = dict(seconds=times, medians=middle, peak_mib=memory, environment=environment)
        Path(args.out).write_text(json.dumps(found, indent=1))


def report(middle: dict[str, float], memory: dict[str, float | None], floor: Sequence[str]) -> None:
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
        peak = f'{memory[name]:.0f}' if memory.get(name) else ''
        rows.append((name, f'{seconds:.3f}', *ratios, peak))
    print(*text_table(rows, ('', 'median s', *references, 'peak MiB'), right=True), sep='\n')
    print(f'our losses, forward, are {middle[LOSSES] / middle[OURS[0]]:.1%} of our step')
