"""Train a part of a model: what is frozen by name, and what a loss does not reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .building import did_you_mean
from .errors import SetupError


def train_only(model: nn.Module, names: Sequence[str]) -> None:
    """Freeze every parameter of a model that lies in none of the parts named.

    Args:
        model: is changed.
        names: of modules or parameters, ``'backbone'`` or ``'backbone.layer1'``.

    Raises:
        SetupError: one is no part of the model, or nothing is left to train.
    """
    known = [name for name, _ in model.named_modules() if name]
    known += [name for name, _ in model.named_parameters()]
    for name in names:
        if name not in known:
            raise SetupError(
                f'trains names {name!r}, which is no part of the {type(model).__name__}; it has '
                f'{", ".join(repr(n) for n, _ in model.named_children())}, and what is inside of '
                f"these ('backbone.layer1').{did_you_mean(str(name), known)}"
            )
    for name, parameter in model.named_parameters():
        if not _inside(name, names):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SetupError(f'trains={tuple(names)} leaves nothing of the student to train.')


def rest_frozen(model: nn.Module, names: Sequence[str]) -> None:
    """Keep the batch statistics of what does not train as they are.

    Args:
        model: in training; batch norms outside the parts named go into evaluation mode.
        names: see :func:`train_only`.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not _inside(name, names):
            module.eval()


def unreached(losses: Iterable[Tensor], model: nn.Module) -> list[str]:
    """What of a model would train and gets no gradient from some losses, by the largest parts.

    Args:
        losses: scalars with their graphs.
        model: that they were computed with.

    Returns:
        names of modules, or of parameters; none where activations are recomputed, which hides it.
    """
    reached, hidden = set(), False
    for function in _graph(losses):
        reached.add(id(getattr(function, 'variable', None)))
        hidden = hidden or 'Checkpoint' in type(function).__name__
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    missing = {n for n, p in wanted.items() if id(p) not in reached}
    found: list[str] = []
    for part in (*(n for n, _ in model.named_modules() if n), *missing):
        inside = {n for n in wanted if _inside(n, [part])}
        if not hidden and inside and inside <= missing and not _inside(part, found):
            found.append(part)
    return found


def _inside(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f'{part}.') for part in parts)


def _graph(losses: Iterable[Tensor]) -> Iterator[object]:
    """Every function in the graphs of some tensors, once."""
    waiting = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        function = waiting.pop()
        yield function
        for each, _ in function.next_functions:
            if each is not None and each not in seen:
                seen.add(each)
                waiting.append(each)
