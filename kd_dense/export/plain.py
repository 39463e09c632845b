"""The plain student: weights, config and how it was made; of kd_dense its backbone at the most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from ..errors import SetupError
from ..files import written_whole
from ..hosts import build_model
from ..hosts.checkpoints import load_completely, model_state, read_checkpoint
from ..hosts.configs import (
    OUR_BACKBONES,
    OURS,
    has_our_backbone,
    is_distiller,
    leaf_datasets,
    mentions_of_ours,
    models_of_teachers,
    plain_student,
    strip_ours,
)
from ..logs import by_epoch, read_scalars, validations
from ..version import __version__

# data sets of ours that only give names to a plain one: its type, and what to say there
_PLAIN_DATASETS = {
    'CamVidDataset': ('BaseSegDataset', dict(img_suffix='.jpg', seg_map_suffix='.png'))
}


@dataclass
class Plain:
    """A trained student, ready to be shipped.

    Attributes:
        model: in evaluation mode, with all its weights.
        config: its own, which needs kd_dense for a backbone of ours alone.
        meta: of the checkpoint.
        scope: ``'mmdet'`` or ``'mmseg'``.
    """

    model: nn.Module
    config: Config
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def scope(self) -> str:
        """Whose model it is."""
        return self.config.default_scope

    @property
    def dataset_meta(self) -> dict[str, Any]:
        """``classes``, and ``palette`` where there is one."""
        return self.meta['dataset_meta']


def plain_config(config: Config, name: str = 'student') -> Config:
    """A config that plain mmdet or mmseg trains, tests and infers with.

    A backbone of ours stays, with the import of kd_dense that it needs; the package that it was
    initialised from is left out, because the weights come with the config.

    Args:
        config: of a distiller, or already of a plain model.
        name: of a peer, in place of the student.

    Raises:
        SetupError: something of kd_dense is left in it, or there is no such peer.
    """
    plain = Config(plain_student(config, name).to_dict())
    ours = [where for where, _ in mentions_of_ours(plain.model, 'model') if '.init_cfg.' in where]
    plain.merge_from_dict({where.split('.init_cfg.')[0] + '.init_cfg': None for where in ours})
    strip_ours(plain)
    scope = plain.model.pop('_scope_', None)
    plain.default_scope = plain.get('default_scope') or scope or 'mmdet'
    for key in ('work_dir', 'launcher', 'data_help'):
        plain.pop(key, None)
    plain.load_from, plain.resume = None, False
    for part in ('train', 'val', 'test'):
        if (loader := plain.get(f'{part}_dataloader')) is not None:
            _use_plain_datasets(loader.dataset)
    for key in [key for key in plain if key not in USED_BY_MMENGINE]:  # only other parts read it
        if next(mentions_of_ours(plain[key], key), None):
            plain.pop(key)
    # mmseg's inference reads it there
    plain.setdefault('test_pipeline', test_pipeline(plain))
    left = [
        f'{where}={value!r}'
        for key in plain
        if key != 'custom_imports'
        for where, value in mentions_of_ours(plain[key], key)
        if value not in OUR_BACKBONES
    ]
    if left:
        raise SetupError(
            f'The config needs kd_dense even for the student alone: {", ".join(left[:3])}. Replace '
            "these by mmdet's or mmseg's own, for example by --cfg-options."
        )
    return plain


def test_pipeline(config: Config) -> list[ConfigDict]:
    """The transforms of the test data of a config."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and ('dataset' in dataset or dataset.get('datasets')):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    return dataset.get('pipeline') or [ConfigDict(type='LoadImageFromFile')]


USED_BY_MMENGINE = frozenset(
    [
        *('model', 'train_cfg', 'val_cfg', 'test_cfg', 'train_dataloader', 'val_dataloader'),
        *('test_dataloader', 'val_evaluator', 'test_evaluator', 'optim_wrapper', 'visualizer'),
        *('param_scheduler', 'default_hooks', 'custom_hooks', 'data_preprocessor', 'log_processor'),
        *('custom_imports', 'model_wrapper_cfg', 'env_cfg', 'default_scope', 'runner_type'),
    ]
)


def _use_plain_datasets(dataset: ConfigDict) -> None:
    """Replace data sets of ours by the plain ones that they stand on, in place."""
    for part in leaf_datasets(dataset):
        kind = str(part.get('type'))
        name = kind.rsplit('.', 1)[-1]
        if kind.startswith(OURS) and name in _PLAIN_DATASETS:
            plain, options = _PLAIN_DATASETS[name]
            metainfo = dict(DATASETS.get(kind).METAINFO)
            part.update(dict(metainfo=metainfo) | options | part | dict(type=plain))


def read_plain(
    config: Config,
    checkpoint: str,
    made_by: Mapping[str, Any] | None = None,
    name: str = 'student',
) -> Plain:
    """Read a trained student, and build it with its plain config.

    Args:
        config: of the training, with or without a teacher.
        checkpoint: distilled or plain, a path or URL.
        made_by: what else to note under ``meta['made_by']``.
        name: of a peer, in place of the student.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        SetupError: the checkpoint does not fit the student.
    """
    plain = plain_config(config, name)
    source = read_checkpoint(checkpoint, 'student')
    with DefaultScope.overwrite_default_scope(plain.default_scope):
        model = build_model(plain.model).eval()
        load_completely(model, model_state(source, name), checkpoint, name)
        model.float()
        old = source.get('meta') or {}
        meta = {key: value for key, value in old.items() if key not in ('cfg', 'hook_msgs')}
        meta['dataset_meta'] = dict(old.get('dataset_meta') or _dataset_meta(plain))
    meta['cfg'] = plain.pretty_text
    meta['kd_dense_version'] = __version__
    made = dict(made_by or {}) | dict(checkpoint=str(checkpoint), **_training_of(config))
    if name != 'student':
        made['metrics_missing'] = 'not known of a peer: only the student is validated'
    elif '://' not in checkpoint:
        made |= _metrics(Path(checkpoint), meta)
    meta['made_by'] = made
    return Plain(model, plain, meta)


def _training_of(config: Config) -> dict[str, Any]:
    """How a student was trained: by which losses of which teacher, or alone."""
    if not is_distiller(config):
        return dict(distilled=False)
    teachers = {
        name: dict(
            config=given if isinstance(given := each.get('config'), str) else 'given as a dict',
            checkpoint=str(each.get('checkpoint')),
        )
        for name, each in models_of_teachers(config.model).items()
    }
    losses = {
        name: {key: value for key, value in loss.items() if isinstance(value, str | int | float)}
        for name, loss in (config.model.get('losses') or {}).items()
    }
    told = teachers if list(teachers) == ['teacher'] else dict(teachers=teachers)
    return dict(distilled=True, **told, losses=losses)


def _metrics(checkpoint: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the log beside a checkpoint says of the validation at its very step; or why nothing."""
    lines = read_scalars(checkpoint.parent)
    if not lines:
        return dict(metrics_missing='no log (*/vis_data/scalars.json) lies beside the checkpoint')
    position = meta.get('epoch' if by_epoch(lines) else 'iter')
    metrics = validations(lines).get(position)
    if metrics is None:
        return dict(metrics_missing=f'the log tells of no validation at {position}')
    return dict(metrics=metrics, metrics_at=position)


def _dataset_meta(config: Config) -> dict[str, Any]:
    """Class names and colours as the test data set of a config gives them.

    Raises:
        SetupError: it gives none.
    """
    dataset = (config.get('test_dataloader') or {}).get('dataset')
    meta = {}
    if dataset is not None:
        dataset = Config(dict(x=dict(dataset))).x.to_dict() | dict(lazy_init=True, pipeline=[])
        meta = DATASETS.build(dataset).metainfo
    if not meta.get('classes'):
        raise SetupError(
            'Neither the checkpoint nor the config names the classes: set '
            '`test_dataloader.dataset.metainfo` of the config.'
        )
    return {key: meta[key] for key in ('classes', 'palette') if meta.get(key) is not None}


def write_plain(plain: Plain, folder: Path, name: str = 'student') -> list[Path]:
    """Write ``NAME.pth`` and ``NAME.py``.

    Returns:
        both paths.
    """
    weights, config = folder / f'{name}.pth', folder / f'{name}.py'
    with written_whole(weights) as part:
        torch.save(dict(meta=plain.meta, state_dict=plain.model.state_dict()), part)
    config.write_text(_needed(plain.config) + plain.config.pretty_text)
    return [weights, config]


def _needed(config: Config) -> str:
    """The line that tells what a plain config needs besides mmdet or mmseg; empty for nothing."""
    if not has_our_backbone(config.model):
        return ''
    return "# Needs kd_dense and timm for its backbone: pip install 'kd_dense[pretrained]'\n"
