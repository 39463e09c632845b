"""Run what needs a GPU, its tests and the benchmark, and write one Markdown page.

make gpu                                   # the .venv, or the Python that is there without one
python tests/gpu/page.py --out gpu.md --images 8

It installs nothing and fetches nothing. What fails is on the page, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PAIRS = {  # what is trained usually: height and width in pixels
    'gfl': '800x1344',
    'faster_rcnn': '800x1344',
    'pspnet': '512x1024',
}
ON_COCO = ('gfl', 'faster_rcnn')
COCO = 117_266  # training images with boxes
EPOCHS = 12
WORK = COCO * EPOCHS
GPUS = (1, 8)
PLAIN = 'student step'  # what the names of the student's own steps begin with


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('gpu.md'), help='default: %(default)s')
    parser.add_argument('--images', type=int, default=4, help='of a step, default: %(default)s')
    parser.add_argument('--rounds', type=int, default=7, help='of the benchmark')
    parser.add_argument('--device', default='cuda', help=argparse.SUPPRESS)
    parser.add_argument('--size', help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.exit(run(args))


def run(args: argparse.Namespace) -> str | int:
    """Measure and write the page; a sentence or a number of what failed."""
    try:
        import torch
    except ImportError:
        return f'{sys.executable} has no torch: name a Python that has, make gpu PYTHON=python3'
    if args.device == 'cuda' and not torch.cuda.is_available():
        return 'There is no CUDA device here, and nothing was run. Everything else works on a CPU.'
    name = torch.cuda.get_device_name() if args.device == 'cuda' else args.device
    page = [f'# {name}', '', f'torch {torch.__version__}, {args.images} images a step.', '']
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for part in (tests(Path(folder), args), *speed(Path(folder), args)):
            for line in part:
                failed += line.startswith('**Failed**')
                page.append(line)
                print(line, flush=True)
            args.out.write_text('\n'.join(page) + '\n')
    print(f'written to {args.out}')
    return failed


def call(*words: object, **options: Any) -> tuple[str, float]:
    """Run a Python command: the end of what it says where it fails, and its seconds."""
    start = time.monotonic()
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **options)
    said = (done.stdout + done.stderr).strip().splitlines()
    return '\n'.join(said[-3:]) if done.returncode else '', time.monotonic() - start


def tests(folder: Path, args: argparse.Namespace) -> Iterator[str]:
    """The tests that need a GPU: how many pass, and which do not."""
    report = folder / 'tests.xml'
    options = ('-q', '-o', 'addopts=', f'--junitxml={report}')
    failure, seconds = call('-m', 'pytest', *options, 'tests/gpu')
    yield '## Tests'
    yield ''
    if not report.exists():
        yield f'**Failed** to run: {failure}'
        return
    cases = list(ElementTree.parse(report).iter('testcase'))
    bad = [c for c in cases if c.find('failure') is not None or c.find('error') is not None]
    skipped = sum(case.find('skipped') is not None for case in cases)
    passed = len(cases) - len(bad) - skipped
    yield f'{passed} passed, {len(bad)} failed, {skipped} skipped in {seconds:.0f} s.'
    for case in bad:
        yield f'**Failed**: {case.get("name")}'
    yield ''


def speed(folder: Path, args: argparse.Namespace) -> Iterator[Iterator[str]]:
    """The benchmark of each pair, and what the cost grows with."""
    for pair, size in PAIRS.items():
        yield steps(folder, args, pair, args.size or size)
    yield grown(folder, args)


def benchmark(folder: Path, args: argparse.Namespace, *words: object) -> dict[str, Any] | str:
    """What the benchmark measured, or the end of what it said."""
    out = folder / 'numbers.json'
    out.unlink(missing_ok=True)
    common = ('--device', args.device, '--images', args.images, '--out', out)
    failure, _ = call('-m', 'kd_dense', 'benchmark', *common, *words)
    return failure or json.loads(out.read_text())


def steps(folder: Path, args: argparse.Namespace, pair: str, size: str) -> Iterator[str]:
    """A table of a pair's steps."""
    yield f'## {pair}, {args.images} x {size}'
    yield ''
    found = benchmark(folder, args, '--pair', pair, '--size', size, '--rounds', args.rounds)
    if isinstance(found, str):
        yield f'**Failed**: {found}'
        return
    plain = {half: _first(found['medians'], half) for half in (False, True)}
    gpus = GPUS if pair in ON_COCO else ()
    rows: list[tuple[str, ...]] = [
        ('', 'median s', 'images/s', 'x plain', 'peak MiB', *map(_hours, gpus))
    ]
    for name, seconds in found['medians'].items():
        rate = args.images / seconds
        trains = 'step' in name.split(',')[0].split()
        peak = found['peak_mib'].get(name)
        rows.append(
            (
                name,
                f'{seconds:.4f}',
                f'{rate:.1f}' if trains else '',
                f'{seconds / plain[name.endswith("amp")]:.2f}',
                f'{peak:.0f}' if peak else '',
                *(f'{WORK / rate / number / 3600:.1f}' if trains else '' for number in gpus),
            )
        )
    yield from table(rows)
    yield ''
    if gpus:
        yield (
            f'Hours are of {EPOCHS} epochs of COCO ({COCO:,} images) at these rates, on paper: '
            'the time of the data and between GPUs is not in them.'
        )
        yield ''


def _hours(gpus: int) -> str:
    return f'h on {gpus} GPU{"s" * (gpus > 1)}'


def _first(medians: Mapping[str, float], half: bool) -> float:
    """Seconds of the student's own step, in mixed precision or not."""
    return next(
        seconds
        for name, seconds in medians.items()
        if name.startswith(PLAIN) and name.endswith('amp') == half
    )


def grown(folder: Path, args: argparse.Namespace) -> Iterator[str]:
    """Tables of what a GFL pair's step costs while one thing grows."""
    yield f'## Growth, GFL, {args.images} x 320 x 320 where nothing else is said'
    yield ''
    found = benchmark(folder, args, '--growth', '--rounds', 3)
    if isinstance(found, str):
        yield f'**Failed**: {found}'
        return
    for name, points in found.items():
        if name != 'environment':
            rows = [(name, 'plain s', 'ours s', 'ours / plain', 'plain MiB', 'ours MiB')]
            for each in points:
                seconds = (f'{each[key]:.4f}' for key in ('plain', 'ours'))
                peaks = (f'{each[key]:.0f}' for key in ('plain_mib', 'ours_mib'))
                ratio = f'{each["ours"] / each["plain"]:.2f}'
                rows.append((str(each['value']), *seconds, ratio, *peaks))
            yield from table(rows)
            yield ''


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows in Markdown, the first one the header."""
    for number, row in enumerate(rows):
        yield f'| {" | ".join(row)} |'
        if not number:
            yield f'|{" --- |" * len(row)}'


if __name__ == '__main__':
    main()
