"""Put images without labels into a training's config."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config, ConfigDict

from ..errors import SetupError
from ..hosts.configs import BESIDE, WITH, is_distiller
from .dataset import images_in
from .sampler import check_ratio

REST = 'rest'  # in place of a folder


def check_folder(folder: str) -> None:
    """Check that there are unlabelled images.

    Raises:
        FileNotFoundError: there is no such folder.
        SetupError: it holds no image.
    """
    if folder != REST:
        images_in(folder)


def use_unlabelled(config: Config, folder: str, ratio: float = 1.0) -> None:
    """Let a distillation learn from images without labels beside its labelled ones.

    Args:
        config: a whole training; is changed. Its batches get images added.
        folder: of images; ``'rest'`` for those that ``indices`` of the data set leaves out.
        ratio: unlabelled images to each labelled one.

    Raises:
        FileNotFoundError: there is no such folder.
        SetupError: no teacher, no images, or a ratio that is none.
    """
    check_ratio(ratio)
    if not is_distiller(config):
        raise SetupError(
            f'This {config.model.get("type")} trains without a teacher, and nothing else tells it '
            'anything about images without labels. Name the config of a distillation, or use '
            '`kd-dense distill --unlabelled FOLDER`.'
        )
    loader = config.train_dataloader
    if loader.dataset.get('type') == WITH:
        raise SetupError(
            'The training has images without labels already. Change '
            '`train_dataloader.dataset.unlabelled` of its config, or leave --unlabelled out.'
        )
    check_folder(folder)
    unlabelled = None if folder == REST else str(folder)
    loader.dataset = ConfigDict(type=WITH, dataset=loader.dataset, unlabelled=unlabelled)
    batches: dict[str, Any] = dict(type=BESIDE, ratio=ratio)
    if loader.get('batch_sampler') is not None:
        batches['batch_sampler'] = loader.batch_sampler
    if loader.pop('drop_last', False):
        batches['drop_last'] = True
    loader.batch_sampler = ConfigDict(batches)
    if config.model.get('unlabelled_weight') is None:
        config.model.unlabelled_weight = 1.0
