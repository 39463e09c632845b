"""Evaluate a student: from a distilled or a plain checkpoint, without its teacher.

kd-dense test configs/ld_r18.py work_dirs/ld_r18/epoch_12.pth
kd-dense test configs/ld_r18.py work_dirs/seed_*/epoch_12.pth    # the mean of several
"""

import argparse

from mmengine.config import Config
from mmengine.runner import Runner

from ..config_check import check_loops
from ..errors import SetupError
from ..hosts.checkpoints import class_names, load_completely, model_state, read_checkpoint
from ..hosts.configs import check_data, plain_student
from ..launch import command_line, common_options, draw_predictions, model_option, read_config
from ..pair import check_order
from ..teachers.predicting import EnsembleModel, ensemble_of, is_ensemble
from ..training import look_at_data


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config that the student was trained with')
    parser.add_argument(
        'checkpoint',
        nargs='*',
        help='distilled or plain checkpoint, path or URL; of several, their mean is evaluated, and '
        "none is named where the config's model is a kd_dense.Ensemble",
    )
    model_option(parser)
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
        config = plain_student(read_config(args), args.model)
        check_loops(config, 'test')
        check_checkpoints(config, args.checkpoint)
        check_data(config, ('test_dataloader',))
        said = [] if args.no_check else look_at_data(config, 'test_dataloader')
        if args.out:
            config.test_evaluator = [
                config.test_evaluator,
                dict(type='DumpResults', out_file_path=args.out),
            ]
        if args.show_dir:
            draw_predictions(config, args.show_dir)
        if len(args.checkpoint) > 1:
            config.model = ensemble_of(config.model, args.checkpoint)
        config.load_from = None
        runner = Runner.from_cfg(config)
        for text in said:
            runner.logger.warning(text)
        model = getattr(runner.model, 'module', runner.model)
        if isinstance(model, EnsembleModel):
            names = model.classes
        else:
            checkpoint = read_checkpoint(args.checkpoint[0], 'student')
            state = model_state(checkpoint, args.model)
            load_completely(model, state, args.checkpoint[0], args.model)
            names = class_names(checkpoint)
        source = ', '.join(args.checkpoint) or args.config
        check_order(runner.test_dataloader.dataset.metainfo.get('classes'), names, source)
        runner.test()


def check_checkpoints(config: Config, paths: list[str]) -> None:
    """Check that there is a checkpoint to evaluate, and only where one is needed.

    Raises:
        SetupError: there is not.
    """
    if is_ensemble(config.model) != (not paths):
        raise SetupError(
            "The config's model is an ensemble, whose members name their checkpoints: name none."
            if paths
            else 'Name a checkpoint to evaluate, or several to evaluate their mean.'
        )
