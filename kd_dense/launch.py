"""What the command-line tools share: options, configs, and errors without a traceback."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction

from .config_check import check_names, check_options
from .errors import SetupError
from .faults import explain
from .hosts import need_mmseg
from .hosts.configs import replace_amp
from .hosts.loading import guarded_loading


class Overrides(DictAction):
    """Reads ``KEY=VALUE``; what is none is an error of the command line."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        wrong = [value for value in values if '=' not in value or value.startswith('=')]
        if wrong:
            parser.error(f'{option_string} takes KEY=VALUE; found {", ".join(wrong)}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:  # brackets that do not match
            parser.error(f'{option_string}: {" ".join(values)} cannot be read ({error})')


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option: a whole number that is not below a least one."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f'it takes {least} or more; found {text}')
        return int(text)

    return number


def share(text: str) -> float:
    """The type of an option: a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f'it takes a number from 0 to 1; found {text}')
    return float(text)


def file_name(text: str) -> str:
    """The type of an option: the name of a file without folders, so that it stays in its own."""
    if text in ('', '.', '..') or Path(text).name != text or '\\' in text:
        raise argparse.ArgumentTypeError(f'it takes a name without folders; found {text!r}')
    return text


def model_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names one of several models that trained together."""
    parser.add_argument(
        '--model',
        default='student',
        metavar='NAME',
        help='which of the models that trained together: a peer by its name; default: %(default)s',
    )


def edge_options(parser: argparse.ArgumentParser, checkpoints: bool = True) -> None:
    """Add the options of :func:`command_line`.

    Args:
        parser: of a tool.
        checkpoints: whether the tool reads any.
    """
    parser.add_argument(
        '--traceback', action='store_true', help='show where an error comes from, in the code'
    )
    if checkpoints:
        parser.add_argument(
            '--trust-checkpoint',
            action='store_true',
            help='read checkpoints that hold more than weights, which may run their code',
        )
        parser.add_argument(
            '--allow-http', action='store_true', help='fetch checkpoints from http:// too'
        )


def override_options(
    parser: argparse.ArgumentParser, text: str = 'overrides of the config'
) -> None:
    """Add what a tool takes that reads configs and trains nothing.

    Args:
        parser: of the tool.
        text: what is overridden.
    """
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, help=text)
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    edge_options(parser)


def common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that mmdet users expect of every tool."""
    parser.add_argument('--work-dir', help='where to write; default: work_dirs/NAME_OF_CONFIG')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        help='overrides of the config, e.g. model.losses.ld.weight=0.5 '
        'train_dataloader.batch_size=4',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='of jobs'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    edge_options(parser)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config of a command line, with its overrides and its launcher.

    Raises:
        FileNotFoundError: there is no such config.
        SetupError: it is none of a model, or one of segmentation, and mmseg is not installed.
    """
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'There is no config {args.config} (looked from {Path.cwd()}).')
    config = _from_file(args.config)
    finish_config(config, args, Path(args.config).stem, args.config)
    return config


def finish_config(
    config: Config, args: argparse.Namespace, name: str, file: str | None = None
) -> None:
    """Bring overrides, work directory and launcher of a command line into a config.

    Args:
        config: is changed.
        args: with the common options.
        name: of the work directory, where none is given.
        file: of the config, for messages.

    Raises:
        SetupError: the config holds no model, or a name that nothing reads.
    """
    if args.cfg_options is not None:
        override(config, args.cfg_options)
    check_names(config, file or name)
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / name)
    check_launcher(args.launcher)
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
        SetupError: no element of a list has such a type, or several have; or nothing reads a key.
    """
    for text in check_options(config, options):
        print(f'warning: {text}', file=sys.stderr)
    config.merge_from_dict({_by_index(config, key): value for key, value in options.items()})


def check_launcher(launcher: str) -> None:
    """Check that a launcher has started this process.

    Raises:
        SetupError: what it sets in the environment is not there.
    """
    needed = {
        'pytorch': ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
        'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
    }
    missing = [name for name in needed.get(launcher, ()) if name not in os.environ]
    if missing:
        raise SetupError(
            f'--launcher {launcher} is for processes that it started, and {", ".join(missing)} '
            'is not set in the environment. Start ranks by tools/dist_train.sh or '
            'tools/slurm_train.sh, or leave out --launcher.'
        )


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
    """Train with automatic mixed precision: mmengine's on a GPU, in bfloat16 without one."""
    wrapper = config.optim_wrapper
    # of an adversarial training the student; its discriminator stays in single precision
    wrapper = wrapper.student if 'discriminator' in wrapper else wrapper
    if torch.cuda.is_available():
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
    else:
        replace_amp(wrapper, 'kd_dense.AutocastOptimWrapper')


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
def command_line(args: argparse.Namespace | None = None) -> Iterator[None]:
    """Around a whole tool: errors in a sentence with exit status 1, ranks that part in order.

    Args:
        args: with the options of :func:`edge_options`; None for their defaults.
    """
    gloo = False
    try:
        trust, http = (getattr(args, name, False) for name in ('trust_checkpoint', 'allow_http'))
        with guarded_loading(trust, http):
            yield
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            gloo = torch.distributed.get_backend() == 'gloo'
    except Exception as error:
        if getattr(args, 'traceback', False) or (sentence := explain(error)) is None:
            raise
        print(f'\nerror: {sentence}', file=sys.stderr)
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
