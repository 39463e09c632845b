"""Shift a student's bias of one class, such as one that it was taught without examples.

kd-dense class-bias CONFIG CHECKPOINT --class three

Writes the plain student with its config, as `kd-dense export` does; test it to see what it brought.
"""

import argparse
from itertools import chain, repeat
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..class_bias import matching_shift, shift_class, teachers_share
from ..errors import SetupError
from ..export import Plain, read_plain, write_plain
from ..hosts.checkpoints import load_completely, model_state, read_checkpoint
from ..hosts.configs import is_distiller
from ..launch import at_least, command_line, file_name, override_options, read_config
from ..record import command_used
from ..registry import MODELS

AUTO = 'auto'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config that the student was trained with')
    parser.add_argument('checkpoint', help='distilled or plain checkpoint, path or URL')
    parser.add_argument('--class', dest='name', required=True, help='its name')
    parser.add_argument(
        '--shift',
        type=shift,
        default=AUTO,
        help='in logits; auto: so that the class is as likely on the training images as by the '
        'teacher, without reading annotations; default: %(default)s',
    )
    parser.add_argument(
        '--images', type=at_least(1), default=200, help='training images for auto, %(default)s'
    )
    parser.add_argument('--out', type=Path, help='folder; default: shifted, beside the checkpoint')
    parser.add_argument(
        '--file', type=file_name, default='student', help='name of the files, default: %(default)s'
    )
    override_options(parser)
    return parser.parse_args()


def shift(text: str) -> float | str:
    """The type of an option: a number, or auto."""
    return AUTO if text == AUTO else float(text)


def main() -> None:
    """Find the shift, apply it, write the student."""
    args = parse_args()
    with command_line(args):
        config = read_config(args)
        made_by = dict(config=args.config, command=command_used())
        plain = read_plain(config, args.checkpoint, made_by)
        label = find_class(plain, args.name)
        added = args.shift
        if added == AUTO:
            if not is_distiller(config):
                raise SetupError(
                    f'--shift auto asks the teacher, and {args.config} has none. Give a number.'
                )
            added = asked_of_teacher(config, args, label)
        count = shift_class(plain.model, label, added)
        plain.meta['made_by']['class_bias'] = {args.name: added}
        print(f'{added:+.3f} in {count} entr{"y" if count == 1 else "ies"} of the bias')
        folder = args.out or Path(args.checkpoint).parent / 'shifted'
        for path in write_plain(plain, folder, args.file):
            print(path)


def find_class(plain: Plain, name: str) -> int:
    """The index of a class.

    Raises:
        SetupError: the student knows none of this name.
    """
    classes = list(plain.dataset_meta['classes'])
    if name not in classes:
        raise SetupError(f'There is no class {name!r}; the student knows {", ".join(classes)}.')
    return classes.index(name)


def asked_of_teacher(config: Config, args: argparse.Namespace, label: int) -> float:
    """The shift by which the student finds a class as likely as the teacher does."""
    with DefaultScope.overwrite_default_scope(config.get('default_scope')):
        distiller = MODELS.build(config.model)
        seed = (config.get('randomness') or {}).get('seed') or 0
        loader = Runner.build_dataloader(config.train_dataloader, seed=seed)
    state = model_state(read_checkpoint(args.checkpoint, 'student'))
    load_completely(distiller.student, state, args.checkpoint, 'student')
    distiller.load_teacher()
    batches = chain.from_iterable(repeat(loader))
    ours, wanted = teachers_share(distiller, batches, label, args.images)
    now = sum(float(each.double().sigmoid().sum()) for each in ours) / sum(map(len, ours))
    print(f'{args.name}: mean probability {now:.4g}, by the teacher {wanted:.4g}')
    return matching_shift(ours, wanted)
