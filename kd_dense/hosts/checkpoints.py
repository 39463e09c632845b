"""Read a teacher's checkpoint completely, or say what does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import SetupError
from .loading import CANNOT_READ, guarded_loading, reason

STUDENT = 'student'  # what is shipped, among the models that train
STUDENT_PREFIX = f'{STUDENT}.'
OTHER_CHECKPOINT = (
    'Name the checkpoint that was trained with this config, or the config that this checkpoint was '
    'trained with.'
)


def read_checkpoint(
    path: str | Path, role: str, advice: str = '', trust: bool = False
) -> dict[str, Any]:
    """Read a checkpoint from a path or URL to the CPU.

    Args:
        path: of a file, or a URL.
        role: ``'teacher'`` or ``'student'``, for messages.
        advice: how to get the file, for the message.
        trust: read it also where it holds more than weights, which may run its code.

    Raises:
        FileNotFoundError: there is no such file, or it could not be downloaded.
        SetupError: the file is no checkpoint, is damaged or holds more than weights.
    """
    name = str(path)
    remote = '://' in name
    if not remote and not Path(name).expanduser().is_file():
        raise FileNotFoundError(
            f'The checkpoint of the {role} was not found: {name} (looked from {Path.cwd()}). '
            + (advice or f'Train the {role} first, or name another checkpoint.')
        )
    if remote and not any(each and re.match(each, name) for each in CheckpointLoader._schemes):
        raise SetupError(
            f'The checkpoint of the {role} is named by a URL of an unknown kind: {name}. Use '
            'https:// or the path of a file.'
        )
    try:
        with guarded_loading(trust):
            checkpoint = CheckpointLoader.load_checkpoint(name, 'cpu', logger='silent')
    except OSError as error:  # URLError and HTTPError are OSErrors
        raise FileNotFoundError(
            f'The checkpoint of the {role} could not be fetched: {name} ({error}). Download it on '
            'a machine with a network and name the file instead.'
        ) from error
    except SetupError as error:
        text = str(error).removeprefix('The checkpoint ')
        colon = ':' if text == str(error) else ''
        raise SetupError(f'The checkpoint of the {role}{colon} {text}') from error.__cause__
    except CANNOT_READ as error:
        raise SetupError(
            f'The checkpoint of the {role} cannot be read: {name}: {reason(error)}'
        ) from error
    if not isinstance(checkpoint, dict):
        raise SetupError(
            f'The checkpoint of the {role} holds a {type(checkpoint).__name__}, a dict was '
            f'expected: {name}.'
        )
    return checkpoint


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a work directory, students' own and best ones left out.

    Args:
        folder: where mmengine wrote ``iter_N.pth`` or ``epoch_N.pth``, and in ``last_checkpoint``
            which is the last; it may have been moved since.

    Returns:
        The one that is noted as the last, then the others, the newest first.
    """
    numbered = [p for p in folder.glob('*.pth') if re.fullmatch(r'(iter|epoch)_\d+\.pth', p.name)]
    found = sorted(numbered, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    note = folder / 'last_checkpoint'
    noted = folder / Path(note.read_text().strip()).name if note.is_file() else folder
    return [noted, *(p for p in found if p != noted)] if noted.is_file() else found


def prefix_of(name: str = STUDENT) -> str:
    """What the weights of a model that trains begin with in a distiller's checkpoint.

    Args:
        name: ``'student'``, or a peer's.
    """
    return STUDENT_PREFIX if name == STUDENT else f'peers.{name}.model.'


def model_state(checkpoint: Mapping[str, Any], name: str = STUDENT) -> dict[str, Tensor]:
    """The weights of one plain model in a checkpoint: of the student, if we wrote it.

    Args:
        checkpoint: a distiller's or a plain one.
        name: of a peer, in place of the student.
    """
    prefix = prefix_of(name)
    state = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    state = {k.removeprefix('module.'): v for k, v in state.items() if isinstance(v, Tensor)}
    if any(k.startswith(STUDENT_PREFIX) for k in state):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def accept_plain(state: dict[str, Tensor], prefix: str, student: nn.Module) -> None:
    """Let a plain student's weights serve a distiller; in place.

    Args:
        state: of a checkpoint.
        prefix: of the distiller's own weights in it.
        student: its model.

    Raises:
        SetupError: the checkpoint holds nothing of the student.
    """
    ours = prefix + STUDENT_PREFIX
    if not any(key.startswith(ours) for key in state):
        for key in [k for k in state if k.startswith(prefix)]:
            state[ours + key[len(prefix) :]] = state.pop(key)
    known = student.state_dict()
    if not any(key.removeprefix(ours) in known for key in state):
        raise SetupError(
            f'The checkpoint fits no weight of the student ({type(student).__name__}): '
            f'it holds {[k.removeprefix(ours) for k in list(state)[:3]]}, the student '
            f'{list(known)[:3]}. Name a checkpoint of the student or of this distiller.'
        )


def class_names(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The class names a checkpoint was trained with, in order; None where it does not say."""
    meta = checkpoint.get('meta') or {}
    dataset = meta.get('dataset_meta') or {}
    names = dataset.get('classes', dataset.get('CLASSES', meta.get('CLASSES')))
    if names is None:
        return None
    return (names,) if isinstance(names, str) else tuple(names)


class WeightComparison(NamedTuple):
    """How the weights of a checkpoint fit a model, by name.

    Attributes:
        matched: how many weights of the model are there, in the same shape.
        total: how many weights the model has.
        missing: names of the model's weights that are not there.
        unexpected: names that the model does not have.
        shapes: the weights of another shape, in words.
    """

    matched: int
    total: int
    missing: list[str]
    unexpected: list[str]
    shapes: list[str]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, left over or of another shape."""
        return not (self.missing or self.unexpected or self.shapes)

    def __str__(self) -> str:
        return (
            f'{self.matched} of {self.total} weights match; '
            f'missing: {_some(self.missing)}; unexpected: {_some(self.unexpected)}; '
            f'other shape: {_some(self.shapes)}'
        )


def compare_weights(model: nn.Module, state: Mapping[str, Tensor]) -> WeightComparison:
    """Compare the weights of a checkpoint with a model's; nothing is loaded."""
    own = model.state_dict()
    return WeightComparison(
        sum(k in state and state[k].shape == own[k].shape for k in own),
        len(own),
        # batch counters are not used in evaluation, and checkpoints from before 2018 lack them
        [k for k in own if k not in state and not k.endswith('num_batches_tracked')],
        [k for k in state if k not in own and not _second_name(k, state, own)],
        [
            f'{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}'
            for k in own
            if k in state and state[k].shape != own[k].shape
        ],
    )


def _second_name(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether a weight that a model does not have is one that it has, under another part's name.

    mmdet's DDQ, for one, registers layers of its head in its decoder too when it first trains.
    """
    within = name.partition('.')[2]
    return bool(within) and any(
        k in own and k.partition('.')[2] == within and torch.equal(state[k], state[name])
        for k in state
    )


def load_completely(model: nn.Module, state: Mapping[str, Tensor], source: str, role: str) -> None:
    """Load every weight of a model, or none.

    Args:
        model: the model to fill.
        state: its weights by name.
        source: path of the checkpoint, for messages.
        role: ``'teacher'`` or ``'student'``, for messages.

    Raises:
        SetupError: a weight is missing, left over, of another shape or not finite.
    """
    found = compare_weights(model, state)
    if not found.complete:
        raise SetupError(
            f'The checkpoint {source} does not fit the {role} ({type(model).__name__}): {found}. '
            f'Nothing was loaded. {OTHER_CHECKPOINT}'
        )
    check_finite(state, source, role)
    model.load_state_dict(state, strict=False)


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that hold a NaN or an infinity; an infinity in a mask is none."""
    found = []
    for name, value in state.items():
        if not (isinstance(value, Tensor) and value.is_floating_point() and value.numel()):
            continue
        masks = 'mask' in name.rsplit('.', 1)[-1]
        if value.isnan().any() or (not masks and value.isinf().any()):
            found.append(name)
    return found


def check_finite(state: Mapping[str, Tensor], source: str, role: str) -> None:
    """Check that weights can be computed with.

    Args:
        state: by name.
        source: path of the checkpoint, for messages.
        role: ``'teacher'`` or ``'student'``, for messages.

    Raises:
        SetupError: some are not finite, or all are zero.
    """
    if names := not_finite(state):
        raise SetupError(
            f'{len(names)} of {len(state)} weights of the {role} are not finite: {_some(names)}, '
            f'in {source}. Its training diverged: take an older checkpoint, or train it again with '
            'a lower learning rate.'
        )
    if is_zero(state):
        raise SetupError(
            f'All weights of the {role} are zero, in {source}: it says the same of every picture. '
            'Name another checkpoint.'
        )


def is_zero(state: Mapping[str, Tensor]) -> bool:
    """Whether every weight matrix and convolution is zero."""
    matrices = [v for v in state.values() if isinstance(v, Tensor) and v.ndim > 1]
    return bool(matrices) and not any(torch.count_nonzero(each) for each in matrices)


def _some(names: list[str], most: int = 4) -> str:
    if not names:
        return 'none'
    more = f', ... ({len(names)} in all)' if len(names) > most else ''
    return ', '.join(names[:most]) + more
