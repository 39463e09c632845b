"""Train teacher, student alone and student taught on your own data, and write the report.

kd-dense study --data my_folder --student STUDENT --teacher TEACHER

Writes a chain file and runs it: the same command, or `kd-dense chain` with that file, goes on.
"""

import argparse
from pathlib import Path
from pprint import pformat
from typing import Any

from ..chain import read_chain
from ..compose import recipes
from ..errors import SetupError
from ..launch import at_least, command_line
from . import command_to
from .chain import chain_options, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', required=True, help='folder of your own data; docs/own_data.md')
    parser.add_argument('--student', required=True, help='config: a path, mmdet:: or mmseg:: name')
    parser.add_argument('--teacher', required=True, help='config of the teacher, as the student')
    parser.add_argument('--checkpoint', help='of a teacher that is trained already, path or URL')
    parser.add_argument(
        '--classes', nargs='+', help='names of the classes, where the data does not tell them'
    )
    parser.add_argument('--recipe', default='auto', help=f'auto, {", ".join(recipes())}, or a path')
    parser.add_argument(
        '--steps', type=at_least(1), help='of each training: iterations, or epochs if it has these'
    )
    parser.add_argument('--teacher-steps', type=at_least(1), help="of the teacher's; default: same")
    parser.add_argument('--name', help='of the study; default: of the folder of data')
    chain_options(parser)
    return parser.parse_args()


def main() -> None:
    """Write the chain file, and run it."""
    args = parse_args()
    with command_line(args):
        name = args.name or Path(args.data).resolve().name
        if not Path(args.data).is_dir():
            raise FileNotFoundError(f'There is no folder {args.data} (--data).')
        file = Path('work_dirs', 'studies', f'{name}.py')
        text = chain_file(args, file.with_suffix(''))
        if file.is_file() and file.read_text(encoding='utf-8') != text:
            raise SetupError(
                f'{file} is another study of this name. Give this one a name of its own (--name), '
                f'or remove the file; what is trained in {file.with_suffix("")} is then used where '
                'it fits, and moved aside where not.'
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding='utf-8')
        try:
            chain = read_chain(file, args.seeds)  # what is wrong with it is told before it is shown
        except (SetupError, FileNotFoundError):
            file.unlink()
            raise
        print(f'The study: {file}\nThe same again: {command_to("chain", file)}\n', flush=True)
        run(chain, args)


def chain_file(args: argparse.Namespace, folder: Path) -> str:
    """The text of a study's chain file.

    Args:
        args: of the command line.
        folder: where the trainings go.
    """
    data: dict[str, Any] = dict(data=str(Path(args.data).resolve()))
    if args.classes:
        data['classes'] = args.classes
    steps = dict(steps=args.steps) if args.steps else {}
    student = dict(config=args.student, **data, **steps)
    stages: dict[str, Any] = {}
    taught_by: Any = dict(config=args.teacher, checkpoint=args.checkpoint)
    if args.checkpoint is None:
        longer = dict(steps=args.teacher_steps) if args.teacher_steps else steps
        stages['teacher'] = dict(title='the teacher', config=args.teacher, **data, **longer)
        stages['teacher']['once'] = True
        taught_by = '{teacher}'
    title = 'the student, taught by the teacher'
    stages['distilled'] = dict(title=title, **student, teacher=taught_by, recipe=args.recipe)
    parts = dict(
        folder=str(folder),
        stages=stages,
        compare=dict(alone=dict(title='the student alone', **student)),
    )
    lines = (f'{key} = {pformat(value, sort_dicts=False)}' for key, value in parts.items())
    return '\n'.join(['# Written by kd-dense study; yours to change.', *lines]) + '\n'
