"""Evaluate a student: from a distilled or a plain checkpoint, without its teacher.

kd-dense test configs/ld_r18.py work_dirs/ld_r18/epoch_12.pth
"""

import argparse

from mmengine.runner import Runner

from ..config_check import check_loops
from ..hosts.checkpoints import class_names, load_completely, model_state, read_checkpoint
from ..hosts.configs import check_data, plain_student
from ..launch import command_line, common_options, draw_predictions, read_config
from ..pair import check_order
from ..training import look_at_data


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config that the student was trained with')
    parser.add_argument('checkpoint', help='distilled or plain checkpoint, path or URL')
    parser.add_argument('--out', help='dump the predictions to this .pkl file')
    parser.add_argument('--show-dir', help='draw the predictions into this folder')
    parser.add_argument(
        '--no-check', action='store_true', help='test even where the annotations look wrong'
    )
    common_options(parser)
    return parser.parse_args()


def main() -> None:
    """Evaluate."""
    args = parse_args()
    with command_line(args):
        config = plain_student(read_config(args))
        check_loops(config, 'test')
        check_data(config, ('test_dataloader',))
        said = [] if args.no_check else look_at_data(config, 'test_dataloader')
        if args.out:
            config.test_evaluator = [
                config.test_evaluator,
                dict(type='DumpResults', out_file_path=args.out),
            ]
        if args.show_dir:
            draw_predictions(config, args.show_dir)
        checkpoint = read_checkpoint(args.checkpoint, 'student')
        config.load_from = None
        runner = Runner.from_cfg(config)
        for text in said:
            runner.logger.warning(text)
        model = getattr(runner.model, 'module', runner.model)
        load_completely(model, model_state(checkpoint), args.checkpoint, 'student')
        names = class_names(checkpoint)
        check_order(runner.test_dataloader.dataset.metainfo.get('classes'), names, args.checkpoint)
        runner.test()
