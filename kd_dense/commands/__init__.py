"""The command line: ``kd-dense COMMAND ...``, or ``python -m kd_dense COMMAND ...``.

Each command is a module here with a function ``main``, and a script of the same name in ``tools/``.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

from ..version import __version__

COMMANDS = {
    'distill': 'teach any student by any teacher: compose the config, check it, train',
    'study': 'teacher, student alone and student taught on your own data, and the report',
    'chain': 'train several stages, such as teacher, student alone and distilled student',
    'check': 'examine a distillation before it is trained',
    'train': 'train a distilled student, a teacher, or a student alone',
    'test': 'evaluate a student, without its teacher',
    'report': 'write one page that shows what a distillation brought',
    'plot': 'draw losses and metrics of several trainings in one picture',
    'export': 'write the plain student for its user, also as ONNX',
    'class-bias': "shift a student's bias of one class, such as one it was taught without",
    'anytime': 'measure exits: metric against time, when sure images leave early',
    'store-teacher': 'write what a teacher says of the training images, to train without it',
    'specialists': 'find classes that a detector confuses, write configs of specialists',
    'benchmark': "time a training step: plain, ours, and mmdet's own",
    'make-digits': 'build the embedded data set of handwritten digits',
}


def main() -> None:
    """Run the command that the command line names, or list the commands."""
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('-h', '--help'):
        print(usage())
    elif name == '--version':
        print(__version__)
    elif name in COMMANDS:
        sys.argv[:2] = [f'kd-dense {name}']  # what argparse calls the program
        importlib.import_module(f'{__name__}.{name.replace("-", "_")}').main()
    else:
        print(f'kd-dense: there is no command {name!r}.\n\n{usage()}', file=sys.stderr)
        raise SystemExit(2)


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {what}' for name, what in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: kd-dense COMMAND ...',
            '',
            *lines,
            '',
            '`kd-dense COMMAND --help` shows the options of a command.',
        ]
    )


def command_to(name: str, *arguments: object) -> str:
    """A command of ours, written the way this process was called: by ``kd-dense`` or a script."""
    script = Path(sys.argv[0])
    start = ['python', str(script.with_name(f'{name}.py'))]
    if script.suffix != '.py' or script.parent.name != 'tools':
        start = ['kd-dense', name]
    return shlex.join([*start, *map(str, arguments)])
