"""Find classes that a model confuses, and write configs of specialists for them.

kd-dense specialists CONFIG CHECKPOINT --groups 2
"""

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..class_scores import BOX_ACC, confusion, metric_of, scored
from ..errors import SetupError
from ..export import read_plain
from ..files import written_whole
from ..hosts.configs import is_distiller
from ..launch import at_least, command_line, override_options, read_config
from ..specialists import confused_within, groups_of, specialist_config
from ..training import check_data


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config of a detector that knows all classes')
    parser.add_argument('checkpoint', help='its checkpoint, path or URL')
    parser.add_argument('--groups', type=at_least(2), default=2, help='default: %(default)s')
    parser.add_argument('--out', type=Path, help='folder; default: specialists, beside it')
    override_options(parser)
    return parser.parse_args()


def main() -> None:
    """Look at the validation images, tell the groups, write the configs."""
    args = parse_args()
    with command_line(args):
        config = read_config(args)
        if is_distiller(config):
            raise SetupError(
                f'{args.config} distils, and the configs of specialists change the plain config of '
                "a detector. Name that of the student; the checkpoint may be the training's."
            )
        plain = read_plain(config, args.checkpoint)
        if metric_of(plain.model) != BOX_ACC:
            raise SetupError(
                'Specialists are for detectors, to whom an object of another class is background. '
                'Labels of a segmentor have to be made for each group.'
            )
        check_data(config, ('val_dataloader',))
        with DefaultScope.overwrite_default_scope(plain.scope):
            loader = Runner.build_dataloader(plain.config.val_dataloader)
        model = plain.model.to(get_device())
        counts = sum(
            (confusion(each) for batch in loader for each in scored(model, batch)),
            start=torch.zeros(1, dtype=torch.int64),
        )
        groups = groups_of(counts, args.groups)
        classes = list(plain.dataset_meta['classes'])
        folder = args.out or Path(args.checkpoint).parent / 'specialists'
        for number, group in enumerate(groups):
            names = [classes[index] for index in group]
            path = folder / f'{Path(args.config).stem}_{number}.py'
            text = specialist_config(base_of(args.config, folder), config, names)
            with written_whole(path) as part:
                part.write_text(text, encoding='utf-8')
            Config.fromfile(path)  # it can be read
            print(f'{path}: {", ".join(names)}')
        share = confused_within(counts, groups)
        print(f'{share:.0%} of the confusions at the annotated boxes are within these groups')


def base_of(config: str, folder: Path) -> str:
    """A config's path as one in a folder names it; names such as ``mmdet::...`` stay."""
    return config if '::' in config else Path(os.path.relpath(config, folder)).as_posix()
