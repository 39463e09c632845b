"""Measure exits: metric against time when images leave at the first exit that is sure enough.

kd-dense anytime CONFIG CHECKPOINT
"""

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..anytime import (
    Image,
    Point,
    best_choice,
    exits_of,
    leave_at,
    look,
    milliseconds,
    point,
    random_choice,
)
from ..check.built import as_list
from ..errors import SetupError
from ..files import written_whole
from ..hosts.checkpoints import load_completely, read_checkpoint
from ..hosts.configs import is_distiller
from ..launch import at_least, command_line, file_name, override_options, read_config
from ..registry import MODELS
from ..text_table import text_table
from ..training import check_data

SEEDS = 3  # of the random control


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of a student with exits: peers with `shares`')
    parser.add_argument('checkpoint', help='of that training, with all its models')
    parser.add_argument('--exits', nargs='+', default=(), metavar='PEER', help='default: all')
    parser.add_argument(
        '--images', type=at_least(1), default=10**9, help='of the validation set; default: all'
    )
    parser.add_argument(
        '--points', type=at_least(2), default=9, help='of the curve, default: %(default)s'
    )
    parser.add_argument(
        '--rounds', type=at_least(1), default=200, help='of timing, default: %(default)s'
    )
    parser.add_argument('--out', type=Path, help='folder; default: anytime, beside it')
    parser.add_argument(
        '--file',
        type=file_name,
        default='anytime',
        help='name of the picture, default: %(default)s',
    )
    override_options(parser)
    return parser.parse_args()


def main() -> None:
    """Look at the validation images, time the exits, tell the curve, draw it."""
    args = parse_args()
    with command_line(args):
        config = read_config(args)
        if not is_distiller(config):
            raise SetupError(f'{args.config} trains one model; exits are peers of a student.')
        check_data(config, ('val_dataloader',))
        with DefaultScope.overwrite_default_scope(config.get('default_scope')):
            distiller = MODELS.build(config.model)
            batches = Runner.build_dataloader(dict(config.val_dataloader, batch_size=1))
            exits = exits_of(distiller, args.exits)
            state = read_checkpoint(args.checkpoint, 'student').get('state_dict', {})
            load_completely(distiller, state, args.checkpoint, 'training with all exits')
            distiller.to(get_device()).eval()
            images = look(exits, islice(batches, args.images))
            ms = milliseconds(distiller, exits, images[0].data, args.rounds)
            rows = curve(config, images, ms, args.points, batches.dataset.metainfo)
        tell(list(exits), ms, rows)
        folder = args.out or Path(args.checkpoint).parent / 'anytime'
        path = folder / f'{args.file}.png'
        with written_whole(path) as part:
            draw(list(exits), rows).savefig(part, format='png', dpi=120)
        print(path)


def curve(
    config: Config, images: list[Image], ms: list[float], points: int, meta: dict
) -> dict[str, list[Point]]:
    """Points by the way that exits are chosen: each alone, by sureness, by chance, the oracle."""
    metrics = as_list(config.val_evaluator)

    def at(chosen: np.ndarray) -> Point:
        return point(images, chosen, ms, metrics, meta)

    sure = np.array([image.sure[:-1] for image in images])
    thresholds = np.unique(np.quantile(sure, np.linspace(0, 1, points + 1)[1:-1]))
    routed = [leave_at(images, threshold) for threshold in thresholds]
    chance = []
    for chosen in routed:
        drawn = [at(random_choice(chosen, seed)) for seed in range(SEEDS)]
        chance.append(drawn[0]._replace(metric=float(np.mean([each.metric for each in drawn]))))
    best = best_choice(images)
    return {
        'alone': [at(np.full(len(images), index)) for index in range(len(ms))],
        'by sureness': [at(chosen) for chosen in routed],
        'by chance': chance,
        'by the lowest own loss': [] if best is None else [at(best)],
    }


def tell(names: list[str], ms: list[float], rows: dict[str, list[Point]]) -> None:
    """Print the points."""
    lines = []
    for way, points in rows.items():
        for index, each in enumerate(points):
            title = f'{names[index]} alone' if way == 'alone' else way
            shares = [f'{share:.0%}' for share in each.shares]
            lines.append((title, *shares, f'{each.ms:.1f}', f'{each.metric:.1f}'))
    header = ('exits', *names, 'ms', 'AP or mIoU')
    print('\n'.join(['', *text_table(lines, header, right=True), '']))
    print(
        f'an image takes {", ".join(f"{m:.1f} ms to {n}" for n, m in zip(names, ms, strict=True))}'
    )


def draw(names: list[str], rows: dict[str, list[Point]]) -> Figure:
    """The metric against the mean time of an image."""
    figure = Figure(figsize=(6.4, 4.2), layout='constrained')
    axes = figure.add_subplot()
    styles = {'by sureness': 'o-', 'by chance': 's--', 'by the lowest own loss': '*'}
    for way, style in styles.items():
        if points := rows[way]:
            where = [each.ms for each in points], [each.metric for each in points]
            axes.plot(*where, style, label=way, markersize=9 if style == '*' else 5)
    for name, each in zip(names, rows['alone'], strict=True):
        axes.plot(each.ms, each.metric, 'kx')
        axes.annotate(name, (each.ms, each.metric), (4, 4), textcoords='offset points')
    axes.margins(x=0.15)  # for the names
    axes.set_xlabel('mean time of an image (ms)')
    axes.set_ylabel('AP or mIoU')
    axes.legend(title='exits chosen')
    axes.grid(alpha=0.3)
    return figure
