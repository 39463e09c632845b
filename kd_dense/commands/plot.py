"""Draw the losses and the AP or mIoU of several trainings in one picture.

kd-dense plot work_dirs/STUDENT_ALONE work_dirs/DISTILLED --out curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import SetupError
from ..launch import command_line, edge_options
from ..logs import curve, read_scalars
from ..pictures.curves import Chart, Curve, draw_curves

METRICS = ('bbox_mAP', 'bbox_mAP_50', 'segm_mAP', 'pascal_voc/mAP', 'mIoU', 'aAcc')


def read_run(folder: Path) -> list[dict]:
    """What a training logged.

    Raises:
        SetupError: the folder holds no log.
    """
    scalars = read_scalars(folder)
    if not scalars:
        raise SetupError(
            f'No training was logged in {folder} (looked for */vis_data/scalars.json). Name work '
            'directories that `kd-dense train` wrote.'
        )
    return scalars


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folders', nargs='+', type=Path, help='work directories')
    parser.add_argument('--keys', nargs='+', help='scalars; default: AP or mIoU, and all losses')
    parser.add_argument('--names', nargs='+', help='names of the trainings; default: the folders')
    parser.add_argument('--out', type=Path, default=Path('curves.png'), help='default: %(default)s')
    edge_options(parser, checkpoints=False)
    args = parser.parse_args()
    with command_line(args):
        plot(args)


def plot(args: argparse.Namespace) -> None:
    """Draw what was logged into one file: a panel for each scalar, a line for each training.

    Raises:
        SetupError: no log, equal names, or a scalar that was never logged.
    """
    names = args.names or [folder.name for folder in args.folders]
    if len(set(names)) != len(args.folders):
        raise SetupError('Give each training a name of its own with --names.')
    runs = dict(zip(names, map(read_run, args.folders), strict=True))
    found = {key for scalars in runs.values() for line in scalars for key in line}
    metrics = [k for end in METRICS for k in sorted(found) if k.endswith(end)]
    losses = sorted(k for k in found if 'loss' in k)
    critics = sorted(k for k in found if k.startswith('discriminator_'))
    keys = args.keys or [*metrics, *losses, *critics]
    unknown = [key for key in keys if key not in found]
    if unknown:
        raise SetupError(
            f'--keys: {", ".join(unknown)} was never logged; there are {", ".join(sorted(found))}.'
        )
    if not keys:
        raise SetupError(
            'None of these trainings has logged a loss or a metric yet, only '
            f'{", ".join(sorted(found))}. Wait for the next line of a log, or name some by --keys.'
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    trainings = list(enumerate(runs.items()))
    panels = [
        Chart(key, [Curve(name, f'C{i}', *curve(lines, key)) for i, (name, lines) in trainings])
        for key in keys
    ]
    draw_curves(panels).savefig(args.out)
    print(args.out)
