"""Time one training step of a pair: plain, with our distillation, and with mmdet's own LD detector.

kd-dense benchmark
kd-dense benchmark --pair faster_rcnn   # Chen 2017, which mmdet has nothing to compare with
kd-dense benchmark --pair pspnet        # structured distillation, its discriminator included
kd-dense benchmark --growth             # what the cost grows with

The steps that end in "stored" read what the teacher says in a store of the images, written
before; those that end in "amp" are in mixed precision of bfloat16, teacher and student.
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
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.utils.dl_utils import collect_env

from ..benchmark import AMP, CRITIC, IN_HALF, MMDET, OURS, PAIRS, PLAIN, STORED, Subjects, peak_of
from ..growth import SERIES, growth, lines
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
        '--size',
        type=side_or_both,
        default=(320, 320),
        metavar='SIDE|HEIGHTxWIDTH',
        help='of the images in pixels, default: 320',
    )
    parser.add_argument(
        '--growth', nargs='*', choices=SERIES, help='vary one thing at a time: these, or all'
    )
    parser.add_argument('--rounds', type=at_least(1), default=9, help='default: %(default)s')
    parser.add_argument('--device', default='cpu', help='default: %(default)s')
    parser.add_argument('--out', help='write the numbers to this JSON file too')
    parser.add_argument('--no-memory', action='store_true', help='measure time only')
    edge_options(parser, checkpoints=False)
    return parser.parse_args()


def side_or_both(text: str) -> tuple[int, int]:
    """Height and width; a number alone is both.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    of_side = at_least(32)
    height, _, width = text.partition('x')
    return of_side(height), of_side(width or height)


def main() -> None:
    """Measure and print the table."""
    args = parse_args()
    warnings.filterwarnings('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    with command_line(args), tempfile.TemporaryDirectory() as folder:
        height, width = args.size
        print(f'{args.images} x {height} x {width} on {args.device}, {args.rounds} rounds')
        found = measure(args, folder) if args.growth is None else measure_growth(args)
        if args.out:
            environment = {k: str(v) for k, v in collect_env().items()}
            Path(args.out).write_text(json.dumps(found | dict(environment=environment), indent=1))


def measure_growth(args: argparse.Namespace) -> dict[str, Any]:
    """Time plain and distilling step while one thing grows, and print a table of each.

    Args:
        args: of the command line.
    """
    found = {}
    for name in args.growth or SERIES:
        at = dict(images=args.images, size=args.size, device=args.device)
        found[name] = growth(args.pair, name, at, args.rounds, memory=not args.no_memory)
        print('', *lines(name, found[name]), sep='\n')
    return found


def measure(args: argparse.Namespace, store: str) -> dict[str, Any]:
    """Time all subjects in turns, and print the table.

    Args:
        args: of the command line.
        store: an empty folder.
    """
    on_gpu = args.device.startswith('cuda')
    subjects = Subjects(args.pair, args.images, args.size, args.device, store)
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
        apart = peak_of if on_gpu else partial(in_fresh_process, peak_of)
        memory = {name: apart(name, subjects) for name in names if name != CRITIC}
    report(middle, memory, floor, args.images)
    if memory:
        print(*bounds(memory, subjects.teacher_mib()), sep='\n')
    return dict(seconds=times, medians=middle, peak_mib=memory)


def bounds(memory: dict[str, float | None], weights: float) -> Iterator[str]:
    """Each of our steps with a teacher that runs, against the bound of its memory.

    Args:
        memory: peaks in MiB by subject.
        weights: of the teacher, in float32, in MiB.
    """
    for name in (*OURS, IN_HALF[1]):
        alone, peak = memory.get(IN_HALF[0] if name.endswith(AMP) else PLAIN), memory.get(name)
        if alone and peak:
            most = 1.1 * (alone + weights * (0.5 if 'bfloat16' in name else 1))
            what = "the student's step + the teacher's weights + 10 %"
            yield f'{name}: {peak:.0f} MiB, {peak / most:.2f} of {most:.0f} ({what})'


def report(
    middle: dict[str, float], memory: dict[str, float | None], floor: Sequence[str], images: int
) -> None:
    """Print the table and the ratios that matter."""
    together = ' + '.join(name.split()[0] for name in floor)
    references = {
        'x plain': middle[floor[0]],
        f'x {together}': sum(middle[name] for name in floor),
    }
    if MMDET in middle:
        references['x mmdet LD'] = middle[MMDET]
    rows = []
    for name, seconds in middle.items():
        ratios = (f'{seconds / of:.2f}' for of in references.values())
        peak = f'{memory[name]:.0f}' if memory.get(name) else ''
        rate = '' if name == LOSSES else f'{images / seconds:.3g}'
        rows.append((name, f'{seconds:.3f}', rate, *ratios, peak))
    header = ('', 'median s', 'images/s', *references, 'peak MiB')
    print(*text_table(rows, header, right=True), sep='\n')
    print(f'our losses, forward, are {middle[LOSSES] / middle[OURS[0]]:.1%} of our step')
