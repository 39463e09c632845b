"""Checkpoints are written with a sum, and compared with the training that goes on from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..errors import SetupError
from ..hosts.checkpoints import check_finite, compare_weights
from ..hosts.loading import SUM, sum_file, write_sum
from ..registry import HOOKS
from .beside_checkpoints import BesideCheckpoints

# options that tell optimizers apart; others are added by newer versions of torch
TELLING = ('betas', 'momentum', 'alpha', 'rho', 'etas', 'lr_decay')
ANEW = 'To start anew from its weights, leave out --resume and set `load_from`.'


@HOOKS.register_module()
class CheckpointGuardHook(BesideCheckpoints):
    """Write ``NAME.pth.sha256`` beside each checkpoint; refuse to go on from one that does not fit.

    ``kd-dense train`` adds this hook to each training.
    """

    def beside(self, source: Path) -> Path:
        """Where the sum of a checkpoint is written."""
        return sum_file(source)

    def source_of(self, file: Path) -> Path | None:
        """The checkpoint that a file holds the sum of; None where it is no sum."""
        return file.with_name(file.name.removesuffix(SUM)) if file.name.endswith(SUM) else None

    def write(self, source: Path) -> None:
        """Write the sum of one checkpoint, unless it is there already."""
        if not self.beside(source).is_file():
            write_sum(source)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remove the sum of the file that will be written over: a kill may come between."""
        super().before_save_checkpoint(runner, checkpoint)
        meta = checkpoint['meta']
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                number = meta['epoch'] if hook.by_epoch else meta['iter']
                name = hook.filename_tmpl.format(number)
                for file in Path(hook.out_dir).glob(f'*{name}{SUM}'):  # a best one, too
                    file.unlink()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare what was read with the training.

        Raises:
            SetupError: weights are not finite, or a training cannot go on from it.
        """
        source = str(runner._load_from or 'the checkpoint')
        state = checkpoint.get('state_dict', checkpoint)
        check_finite(state, source, 'student')
        if not runner._resume:
            return
        missing = [key for key in ('message_hub', 'optimizer') if key not in checkpoint]
        if missing:
            raise SetupError(
                f'{source} holds no state of a training to resume (no {" and no ".join(missing)}): '
                f'it is a file of weights alone. {ANEW}'
            )
        model = runner.model
        if is_model_wrapper(model):
            if not isinstance(model, DistributedDataParallel):
                return  # its weights are in parts, under names of its own
            model = model.module
        found = compare_weights(model, {k.removeprefix('module.'): v for k, v in state.items()})
        if not found.complete:
            raise SetupError(
                f'{source} is of another training than this config: {found}. Resume with the '
                f'config that it was trained with. {ANEW}'
            )
        for name, optimizer, saved in _optimizers(runner, checkpoint['optimizer']):
            if problem := _differs(optimizer, saved):
                raise SetupError(
                    f'{source} was trained with another {name}: {problem}. Resume with the '
                    f'optimizer and losses that it was trained with. {ANEW}'
                )


def _optimizers(
    runner: Runner, saved: Mapping[str, Any]
) -> Iterator[tuple[str, Optimizer, Mapping[str, Any]]]:
    """Name, optimizer and what was saved of each optimizer of a training."""
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, OptimWrapperDict):
        yield 'optimizer', wrapper.optimizer, saved
        return
    for name, each in wrapper.items():
        yield f'optimizer of the {name}', each.optimizer, saved.get(name) or {}


def _differs(optimizer: Optimizer, saved: Mapping[str, Any]) -> str:
    """In what an optimizer differs from what was saved; empty where it fits."""
    groups = saved.get('param_groups') or []
    sizes = [len(group['params']) for group in groups]
    own = [len(group['params']) for group in optimizer.param_groups]
    if sizes != own:
        return (
            f'it held {sum(sizes)} parameters in {len(sizes)} groups, here are {sum(own)} in '
            f'{len(own)}'
        )
    unknown = [key for key in TELLING if key in optimizer.defaults and key not in groups[0]]
    if unknown:
        return f'it was no {type(optimizer).__name__} (no {", ".join(unknown)} was saved)'
    return ''
