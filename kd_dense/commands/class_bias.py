"""Shift a student's bias of one class, such as one that it was taught without examples.

kd-dense class-bias CONFIG CHECKPOINT --class three --measure

Writes the plain student with its config, as `kd-dense export` does.
"""

import argparse
from collections.abc import Mapping
from itertools import chain, repeat
from pathlib import Path
from statistics import fmean

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..class_bias import GRID, best_shift, matching_shift, shift_class, teachers_share
from ..class_scores import BOX_ACC, IOU, metric_of
from ..errors import SetupError
from ..export import Plain, read_plain, write_plain
from ..hosts.checkpoints import load_completely, model_state, read_checkpoint
from ..hosts.configs import check_data, is_distiller
from ..launch import at_least, command_line, file_name, override_options, read_config
from ..record import command_used
from ..registry import MODELS
from ..report.numbers import METRICS, Metric
from ..store import with_stored_views
from ..text_table import text_table

AUTO, VALIDATION = 'auto', 'validation'
WORDS = {IOU: 'mean IoU', BOX_ACC: 'boxes of the right class'}


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
        'teacher, without reading annotations; validation: the one with which the student does '
        f'best on the validation images, of {GRID[0]:g} to {GRID[-1]:g} in steps of 0.1; '
        'default: %(default)s',
    )
    parser.add_argument(
        '--measure', action='store_true', help='test the student before and after the shift'
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
    """The type of an option: a number, or how to find one."""
    return text if text in (AUTO, VALIDATION) else float(text)


def main() -> None:
    """Find the shift, apply it, write the student, tell what it brought."""
    args = parse_args()
    with command_line(args):
        config = read_config(args)
        made_by = dict(config=args.config, command=command_used())
        plain = read_plain(config, args.checkpoint, made_by)
        label = find_class(plain, args.name)
        folder = args.out or Path(args.checkpoint).parent / 'shifted'
        if args.measure:
            check_measured(config, plain)
        added = args.shift
        if added == AUTO:
            if not is_distiller(config):
                raise SetupError(
                    f'--shift auto asks the teacher, and {args.config} has none. Give a number.'
                )
            added = asked_of_teacher(config, args, label)
        elif added == VALIDATION:
            added = best_on_validation(config, plain, label)
        runner = tester(plain, folder) if args.measure else None
        before = runner.test() if runner else {}
        count = shift_class(plain.model, label, added)
        plain.meta['made_by']['class_bias'] = {args.name: added}
        written = write_plain(plain, folder, args.file)
        if runner:
            shift_class(runner.model, label, added)
            after = runner.test()
            print('\n'.join(['', *compared(told(before, args.name), told(after, args.name)), '']))
        print(f'{added:+.3f} in {count} entr{"y" if count == 1 else "ies"} of the bias')
        for path in written:
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
        loader = Runner.build_dataloader(with_stored_views(config).train_dataloader, seed=seed)
    state = model_state(read_checkpoint(args.checkpoint, 'student'))
    load_completely(distiller.student, state, args.checkpoint, 'student')
    distiller.load_teacher()
    batches = chain.from_iterable(repeat(loader))
    ours, wanted = teachers_share(distiller, batches, label, args.images)
    now = sum(float(each.double().sigmoid().sum()) for each in ours) / sum(map(len, ours))
    print(f'{args.name}: mean probability {now:.4g}, by the teacher {wanted:.4g}')
    return matching_shift(ours, wanted)


def best_on_validation(config: Config, plain: Plain, label: int) -> float:
    """The shift with which the student does best on the validation images."""
    check_data(config, ('val_dataloader',))
    with DefaultScope.overwrite_default_scope(plain.scope):
        loader = Runner.build_dataloader(plain.config.val_dataloader)
    found, before, after = best_shift(plain.model.to(get_device()), loader, label)
    plain.model.cpu()
    words = WORDS[metric_of(plain.model)]
    print(
        f'validation: {words} {before:.2f} % before, {after:.2f} % after; an upper bound, because '
        'the shift was chosen by these images'
    )
    return found


def check_measured(config: Config, plain: Plain) -> None:
    """Check that a student can be tested by its config.

    Raises:
        SetupError: it cannot.
    """
    metric_of(plain.model)
    missing = [key for key in ('test_dataloader', 'test_evaluator') if not plain.config.get(key)]
    if missing:
        raise SetupError(f'--measure tests by the config, which has no `{missing[0]}`.')
    check_data(config, ('test_dataloader',))


def tester(plain: Plain, folder: Path) -> Runner:
    """What tests a student, each class too; its log goes into a folder."""
    config = Config(plain.config.to_dict())
    config.work_dir, config.log_level = str(folder), 'WARNING'
    config.test_cfg = config.get('test_cfg') or dict(type='TestLoop')
    hooks = config.get('custom_hooks') or []
    config.custom_hooks = [*hooks, dict(type='kd_dense.ClassMetricsHook')]
    runner = Runner.from_cfg(config)
    runner.model.load_state_dict(plain.model.state_dict())
    return runner


def told(metrics: Mapping[str, float], name: str) -> dict[str, float]:
    """What counts of the metrics of a test, in percent, by title.

    Args:
        metrics: by key.
        name: of the class.
    """
    kind, what = (BOX_ACC, 'right class') if f'{BOX_ACC}/all' in metrics else (IOU, 'IoU')
    known = [metric for metric in METRICS if metric.key in metrics][:1]
    known.append(Metric(f'coco/{name}_precision', f'AP of {name}', ''))
    values = {each.title: metrics[each.key] * each.scale for each in known if each.key in metrics}
    single = {key.removeprefix(f'{kind}/'): v for key, v in metrics.items() if f'{kind}/' in key}
    everything, own = single.pop('all', None), single.pop(name, None)
    if own is not None:  # the class occurs
        values[f'{what}, {name}'] = own
    if single:
        values[f'{what}, mean of the other classes'] = fmean(single.values())
    if everything is not None:
        values[f'{what}, all boxes'] = everything
    return values


def compared(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Values by title before and after a shift, as the lines of a table."""
    rows = [(t, f'{v:.2f}', f'{after[t]:.2f}', f'{after[t] - v:+.2f}') for t, v in before.items()]
    return text_table(rows, ('test, in percent', 'before', 'after', 'change'), right=True)
