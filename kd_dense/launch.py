"""What the command-line tools share: options, configs, and errors without a traceback."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction

from .errors import SetupError
from .hosts import need_mmseg


def common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that mmdet users expect of every tool."""
    parser.add_argument('--work-dir', help='where to write; default: work_dirs/NAME_OF_CONFIG')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='overrides of the config, e.g. model.losses.ld.weight=0.5 '
        'train_dataloader.batch_size=4',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='of jobs'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config of a command line, with its overrides and its launcher.

    Raises:
        FileNotFoundError: there is no such config.
        SetupError: it is one of segmentation, and mmseg is not installed.
    """
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'There is no config {args.config} (looked from {Path.cwd()}).')
    config = _from_file(args.config)
    finish_config(config, args, Path(args.config).stem)
    return config


def finish_config(config: Config, args: argparse.Namespace, name: str) -> None:
    """Bring overrides, work directory and launcher of a command line into a config.

    Args:
        config: is changed.
        args: with the common options.
        name: of the work directory, where none is given.
    """
    if args.cfg_options is not None:
        override(config, args.cfg_options)
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / name)
    config.launcher = args.launcher
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'pytorch' and not torch.cuda.is_available():
        _join_cpu_ranks(config)


def override(config: Config, options: Mapping[str, Any]) -> None:
    """Change parts of a config as ``--cfg-options`` names them.

    An element of a list is named by its index, or by its type where that says which one it is:
    ``custom_hooks.LossBalanceHook.steps``.

    Args:
        config: is changed.
        options: values by dotted keys.

    Raises:
        SetupError: no element of a list has such a type, or several have.
    """
    config.merge_from_dict({_by_index(config, key): value for key, value in options.items()})


def _by_index(config: Config, key: str) -> str:
    """A key whose elements of lists are all named by their index."""
    place: Any = config
    parts = key.split('.')
    for number, part in enumerate(parts):
        if isinstance(place, list | tuple) and not part.isdigit():
            types = [str(each.get('type')).split('.')[-1] if isinstance(each, Mapping) else ''
                     for each in place]  # fmt: skip
            if types.count(part) != 1:
                raise SetupError(
                    f'--cfg-options {key}: `{".".join(parts[:number])}` is a list with '
                    f'{"several" if part in types else "no"} {part!r}; it has '
                    f'{", ".join(types) or "nothing"}. Name an element by its index, from 0.'
                )
            parts[number] = str(types.index(part))
        place = _inside(place, parts[number])
    return '.'.join(parts)


def _inside(place: Any, part: str) -> Any:
    """What a part of a key leads to; None where that is not there yet."""
    if isinstance(place, Mapping | Config):
        return place.get(part)
    if isinstance(place, list | tuple) and part.isdigit() and int(part) < len(place):
        return place[int(part)]
    return None


def _from_file(name: str) -> Config:
    """Read a config; of segmentation only where mmseg is there.

    Raises:
        SetupError: it needs mmseg.
    """
    try:
        config = Config.fromfile(name)
    except ImportError as error:
        if 'mmseg' in str(error):  # a config of mmseg as its base
            need_mmseg()
        raise
    if config.get('default_scope') == 'mmseg':
        need_mmseg()
    return config


def _join_cpu_ranks(config: Config) -> None:
    """Let several ranks train without a GPU, where mmengine's launcher would ask for CUDA."""
    torch.distributed.init_process_group('gloo')
    config.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
    )


def use_mixed_precision(config: Config) -> None:
    """Train with automatic mixed precision.

    Raises:
        SetupError: there is no GPU to do it on.
    """
    if not torch.cuda.is_available():
        raise SetupError(
            '--amp needs a GPU (mmengine mixes precision on nothing else), and torch finds none. '
            'Leave --amp out; a teacher in half precision is faster on CPUs too '
            "(--cfg-options model.teacher.dtype='bfloat16')."
        )
    wrapper = config.optim_wrapper
    # of an adversarial training the student; its discriminator stays in single precision
    wrapper = wrapper.student if 'discriminator' in wrapper else wrapper
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def scale_learning_rate(config: Config) -> None:
    """Scale the learning rate with the batch size.

    Raises:
        SetupError: the config does not say which batch size its learning rate was made for.
    """
    if 'base_batch_size' not in config.get('auto_scale_lr', {}):
        raise SetupError(
            '--auto-scale-lr needs to know which batch size, of all GPUs together, the learning '
            'rate was made for: set `auto_scale_lr = dict(base_batch_size=16)` in the config.'
        )
    config.auto_scale_lr.enable = True


def draw_predictions(config: Config, folder: str) -> None:
    """Draw what a test predicts into a folder, the way the config's host family does it."""
    hook = config.default_hooks.visualization
    hook.draw = True
    if hook.type == 'SegVisualizationHook':
        config.visualizer.save_dir = folder
    else:
        hook.test_out_dir = folder


@contextmanager
def command_line() -> Iterator[None]:
    """Around a whole tool: errors in a sentence with exit status 1, ranks that part in order."""
    gloo = False
    try:
        yield
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            gloo = torch.distributed.get_backend() == 'gloo'
    except (SetupError, FileNotFoundError) as error:
        print(f'\nerror: {error}', file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if gloo:
        # gloo's threads may still hold tensors; a Python that ends while they ask for its lock is
        # aborted (one training of twenty), so this process ends without taking itself apart
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
