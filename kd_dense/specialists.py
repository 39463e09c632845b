"""Groups of classes that a model confuses, for specialists that tell them apart.

Hinton et al. (arXiv 1503.02531, section 5.1) cluster the columns of the covariance matrix of a
generalist's predictions by an online K-means. Here the distance of two classes is what they are
confused at the annotated boxes, and clusters are joined by average linkage: no start is drawn, and
the groups are the same each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from .errors import SetupError
from .hosts.configs import leaf_datasets

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def groups_of(counts: Tensor, number: int) -> list[list[int]]:
    """Groups of classes that are confused with each other.

    Args:
        counts: of each true class (row) how often each class (column) was scored highest, (K, K).
        number: of groups, 2 to K.

    Returns:
        indices of classes, ascending; the groups in the order of their first class.

    Raises:
        SetupError: fewer than two groups, more than classes, or nothing that is confused.
    """
    if not 2 <= number <= len(counts):
        raise SetupError(f'--groups is {number}; it takes 2 to {len(counts)}, the classes.')
    if not counts.sum() > counts.trace():
        found = 'confused no classes' if counts.any() else 'was shown no annotated objects'
        raise SetupError(
            f'The detector {found} on the validation images, so that any groups would be as good. '
            'Name a validation set with objects, larger or more difficult (--cfg-options '
            'val_dataloader.dataset.ann_file=...).'
        )
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    alike = (share + share.T) / 2
    apart = (1 - alike).fill_diagonal_(0)
    tree = linkage(squareform(apart.numpy(), checks=False), method='average')
    found: dict[int, list[int]] = {}
    for index, group in enumerate(fcluster(tree, number, criterion='maxclust').tolist()):
        found.setdefault(group, []).append(index)
    return sorted(found.values())


def confused_within(counts: Tensor, groups: Sequence[Sequence[int]]) -> float:
    """The share of all confusions that are between classes of one group, 0 to 1.

    Args:
        counts: see :func:`groups_of`.
        groups: indices of classes.
    """
    wrong = counts.double() * (1 - torch.eye(len(counts), dtype=torch.float64))
    inside = sum(float(wrong[group][:, group].sum()) for group in map(list, groups))
    return inside / max(float(wrong.sum()), 1.0)


def specialist_config(base: str, config: Config, classes: Sequence[str]) -> str:
    """The text of a config that trains the same model on some of its classes.

    Objects of all other classes are background, and images without any stay.

    Args:
        base: path of the generalist's config, from where the new one will lie.
        config: the same, read.
        classes: of the specialist, in order.

    Raises:
        SetupError: the data is of a form that cannot be restricted by names.
    """
    names = tuple(classes)
    lines = [
        f'# A specialist for {", ".join(names)}; all else is background to it',
        f'_base_ = [{base!r}]',
        f'model = dict(bbox_head=dict(num_classes={len(names)}))',
    ]
    for part in LOADERS:
        leaves = list(leaf_datasets(config[part].dataset)) if part in config else []
        if len(leaves) > 1 or any('dataset' in config[part].dataset for _ in leaves):
            raise SetupError(
                f"{part} joins or wraps data sets. Write the specialist's config by hand: "
                f'`metainfo=dict(classes={names})` of each, and `num_classes={len(names)}`.'
            )
        if leaves:
            what: Mapping[str, Any] = dict(metainfo=dict(classes=names))
            if part == 'train_dataloader':
                what = dict(what, filter_cfg=dict(filter_empty_gt=False))
            lines.append(f'{part} = dict(dataset={_source(what)})')
    return '\n'.join(lines) + '\n'


def _source(value: Any) -> str:
    """A value as a config writes it."""
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_source(each)}" for key, each in value.items())})'
    return repr(value)
