"""Train as a command line says: what ``kd-dense train`` and ``kd-dense distill`` share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from logging import WARNING
from pathlib import Path

from filelock import FileLock, Timeout
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.distributed import is_initialized

from .check import before_training
from .config_check import check_loops
from .errors import SetupError
from .hooks import AroundStepHook, CheckpointGuardHook
from .hosts.annotations import examine_annotations
from .hosts.checkpoints import checkpoints_of
from .hosts.configs import check_data, is_distiller, with_readable_floats
from .hosts.loading import is_whole
from .launch import at_least, scale_learning_rate, use_mixed_precision
from .record import recorded
from .store import read_from_store, with_stored_views
from .store.kept import DTYPES
from .store.write import write_store

# what launchers call a process's rank, their number, and its rank on its machine
PLACES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
# seconds to wait for a work directory: data workers of a killed training live on for a while
PATIENCE = 12


def training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that mmdet users expect of a training, and ours."""
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from a checkpoint; without a path: from the latest in the work directory',
    )
    parser.add_argument(
        '--stored',
        metavar='FOLDER',
        help='read what the teacher says in a store that `kd-dense store-teacher` has written',
    )
    parser.add_argument(
        '--store-views',
        type=at_least(1),
        metavar='K',
        help='write that store first, where it is not there, of so many views of each image',
    )
    parser.add_argument(
        '--store-dtype', choices=DTYPES, default='float16', help='of its numbers, %(default)s'
    )
    parser.add_argument(
        '--unlabelled',
        metavar='FOLDER',
        help='of images without labels, which the teacher alone teaches; `rest`: those that '
        '`indices` of the data set leaves out',
    )
    parser.add_argument(
        '--unlabelled-ratio',
        type=float,
        default=1.0,
        help='how many of these a batch gets beside each labelled image; default: %(default)s',
    )
    parser.add_argument(
        '--no-check', action='store_true', help='train even where a check finds something wrong'
    )


def newest(work_dir: str) -> tuple[str | None, list[str]]:
    """The newest whole checkpoint of a work directory, and in sentences what was passed over.

    A training that is killed while it writes may leave half a file, or a note (``last_checkpoint``)
    that is empty or names a file that is gone.
    """
    said: list[str] = []
    for path in checkpoints_of(Path(work_dir)):
        if is_whole(path):
            return str(path), said
        said.append(f'{path} is cut short or damaged: going on from the one before.')
    return None, [*said, f'There is nothing to resume in {work_dir}: starting anew.']


def look_at_data(config: Config, *parts: str) -> list[str]:
    """Look at the annotations of some dataloaders.

    Args:
        config: of a tool.
        parts: names of dataloaders.

    Returns:
        what to warn of, in sentences.

    Raises:
        SetupError: something would break a training, or teach it what is wrong.
    """
    found = examine_annotations(config, parts)
    grave = [str(each) for each in found if each.grave]
    if grave:
        raise SetupError(' '.join(grave[:3]))
    return [f'{each.item}: {each}' for each in found]


@contextmanager
def locked(folder: str, launcher: str) -> Iterator[None]:
    """Keep a work directory to one training; a process that dies gives it back.

    Args:
        folder: the work directory; it is made.
        launcher: that started this process; of several ranks the first one holds the lock.

    Raises:
        SetupError: another training writes there.
    """
    if launcher in PLACES and int(os.environ.get(PLACES[launcher][0], 0)):
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder, '.lock'), timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise SetupError(
            f'Another training writes into {folder}. Wait for its end, or name another folder '
            '(--work-dir).'
        ) from None
    except NotImplementedError:  # a file system without locks
        print_log(f'{folder} cannot be locked: start no second training there.', 'current', WARNING)
    try:
        yield
    finally:
        lock.release()


def train(config: Config, args: argparse.Namespace, name: str) -> None:
    """Train; data, teacher and pair are checked before.

    Args:
        config: of a distiller or a plain model.
        args: with the options of :func:`training_options`.
        name: of the config, for messages.

    Raises:
        FileNotFoundError: data or teacher are not there.
        SetupError: something does not fit.
    """
    if args.amp:
        use_mixed_precision(config)
    if args.auto_scale_lr:
        scale_learning_rate(config)
    if args.stored is not None:
        _use_store(config, args)
    elif args.store_views is not None:
        raise SetupError('--store-views is for a store, which --stored names.')
    said: list[str] = []
    if args.resume is not None:
        config.load_from = args.resume
        if args.resume == 'auto':
            config.load_from, said = newest(config.work_dir)
        config.resume = config.load_from is not None
    check_loops(config, 'train', 'val')
    check_data(config, ('train_dataloader', 'val_dataloader'))
    with locked(config.work_dir, config.get('launcher', 'none')):
        _train(config, args, name, said)


def _use_store(config: Config, args: argparse.Namespace) -> None:
    """Let the teacher be read from a store, which is written first where that is asked for."""
    if args.store_views is not None:
        check_data(config, ('train_dataloader',))
        folder = Path(args.stored)
        folder.mkdir(parents=True, exist_ok=True)
        if is_initialized():  # heads would wait for ranks that look at other pictures
            raise SetupError(
                '--store-views writes in one process. Write the store before: kd-dense '
                f'store-teacher CONFIG --to {folder}'
            )
        with FileLock(folder / '.lock'):  # of several trainings by one store the first one writes
            write_store(config, folder, views=args.store_views, dtype=args.store_dtype)
    read_from_store(config, args.stored)


def _train(config: Config, args: argparse.Namespace, name: str, said: list[str]) -> None:
    if not args.no_check:
        said += look_at_data(config, 'train_dataloader', 'val_dataloader')
    runner = Runner.from_cfg(with_readable_floats(with_stored_views(config)))
    for text in said:  # now that there is a log to keep it
        runner.logger.warning(text)
    if not any(isinstance(hook, CheckpointGuardHook) for hook in runner.hooks):
        runner.register_hook(CheckpointGuardHook())
    if is_distiller(config):
        if not any(isinstance(hook, AroundStepHook) for hook in runner.hooks):
            runner.register_hook(AroundStepHook())
        model = getattr(runner.model, 'module', runner.model)
        if not args.no_check:
            report = before_training(config, model, name)
            report.refuse()
            runner.logger.info(report.as_lines())
        model.load_teacher()  # before the data is read: a wrong teacher is seen in seconds
    with recorded(config, name):
        runner.train()
