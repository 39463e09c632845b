"""Write what a teacher says of the training images into a store, to train without the teacher.

kd-dense store-teacher configs/ld_r18.py --views 4 --to stores/gfl_r101
kd-dense train configs/ld_r18.py --stored stores/gfl_r101

Each training image is kept in some views: the training's own pipeline under fixed seeds. A kill
loses at most one file of each process; the same command goes on, with as many processes as you
like: torchrun --nproc-per-node 4 tools/store_teacher.py CONFIG --to FOLDER --launcher pytorch
"""

import argparse
import os
import time
from pathlib import Path

import torch

from ..errors import SetupError
from ..hosts.configs import check_data, is_distiller
from ..launch import at_least, check_launcher, command_line, override_options, read_config
from ..store import Manifest, Store
from ..store.kept import DTYPES, STORABLE
from ..store.store import missing_shards
from ..store.write import write_store
from ..training import PLACES, locked, look_at_data


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the training that the store is for')
    parser.add_argument('--to', type=Path, help='folder; default: stores/NAME_OF_CONFIG')
    parser.add_argument('--teacher', help='which of several teachers, by its name')
    parser.add_argument(
        '--views', type=at_least(1), default=1, help='of each image, default: %(default)s'
    )
    parser.add_argument('--seed', type=at_least(0), default=0, help='of views, %(default)s')
    parser.add_argument(
        '--keep',
        nargs='+',
        default=(),
        choices=STORABLE,
        metavar='NAME',
        help='maps to keep besides those that the losses read: ' + ', '.join(STORABLE),
    )
    parser.add_argument(
        '--whole',
        action='store_true',
        help='keep class and box logits at all positions, also where the losses compare in some '
        'regions only',
    )
    parser.add_argument(
        '--best',
        type=at_least(0),
        default=0,
        help='keep class logits where the teacher is surest, at so many positions of each image, '
        'and their mean elsewhere, for losses that compare at all positions',
    )
    parser.add_argument(
        '--dtype', choices=DTYPES, default='float16', help='of numbers, default: %(default)s'
    )
    parser.add_argument(
        '--verify', action='store_true', help='compare the files of a store with their checksums'
    )
    parser.add_argument(
        '--launcher',
        dest='ranks',
        choices=['none', *PLACES],
        default='none',
        help='of several processes, each of which writes a share of the files',
    )
    override_options(parser)
    return parser.parse_args()


def main() -> None:
    """Write the store, or what is missing of it."""
    args = parse_args()
    with command_line(args):
        folder = args.to or Path('stores') / Path(args.config).stem
        if args.verify:
            verify(folder)
            return
        config = read_config(args)
        if not is_distiller(config):
            raise SetupError(
                f'{args.config} has no teacher. Name the config of the distillation that the '
                'store is for.'
            )
        check_data(config, ('train_dataloader',))
        for text in look_at_data(config, 'train_dataloader'):
            print(text)
        check_launcher(args.ranks)
        rank, ranks, local = place(args.ranks)
        if torch.cuda.is_available():
            torch.cuda.set_device(local)
        start = time.monotonic()
        with locked(str(folder), args.ranks):
            write_store(
                config, folder, args.teacher, args.views, args.seed, args.keep, args.whole,
                args.best, args.dtype, rank, ranks,
            )  # fmt: skip
        if left := missing_shards(folder, Manifest.read(folder)):
            print(
                f'process {rank + 1} of {ranks} is done; {len(left)} files are left to the others'
            )
        else:
            tell(Store(folder), time.monotonic() - start, args)


def place(launcher: str) -> tuple[int, int, int]:
    """Which process this is, how many there are, and which of its machine's it is."""
    if launcher == 'none':
        return 0, 1, 0
    rank, ranks, local = (int(os.environ[name]) for name in PLACES[launcher])
    return rank, ranks, local


def tell(store: Store, seconds: float, args: argparse.Namespace) -> None:
    """Say what was written, and how to train by it."""
    manifest = store.manifest
    regions = f' in {" and ".join(manifest.kept.regions)}' if manifest.kept.regions else ''
    print(
        f'{store.folder}: {manifest.images} images in {manifest.views} views, '
        f'{", ".join(manifest.kept.reads)}{regions}, {store.bytes / 1e6:.1f} MB, '
        f'{store.bytes / manifest.records / 1e3:.1f} kB and {seconds / manifest.records:.3f} s '
        f'a view. Train: kd-dense train {args.config} --stored {store.folder}'
    )


def verify(folder: Path) -> None:
    """Compare the files of a store with their checksums.

    Raises:
        SetupError: one holds something else than was written.
    """
    store = Store(folder)
    if damaged := store.damaged():
        raise SetupError(
            f'{", ".join(damaged)} of {folder} hold something else than was written. Delete them, '
            'and the command that wrote the store writes them anew.'
        )
    print(f'{folder}: all {store.manifest.shards} files are as they were written')
