"""Processes of their own that need not import everything anew.

Python takes five seconds of a core to import torch, mmdet and mmseg. These processes are forked
from one that has imported them and done nothing else; folder, environment, arguments, output, exit
status and signals are as of any process.
"""

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
FORKED = 'forkserver'
CONTEXT = multiprocessing.get_context(FORKED)
CONTEXT.set_forkserver_preload(['tests.helpers.imported'])


def in_ranks(
    function: Callable[..., None], *arguments: Any, number: int = 2, join: bool = True
) -> Any:
    """Call a function of a module in several processes, with the rank before its arguments.

    Args:
        function: to be called in each.
        arguments: for all of them.
        number: of processes.
        join: whether to wait for them; if not, what to wait with is returned.
    """
    _prepare()
    passed = (function, dict(os.environ), os.getcwd(), arguments)
    return torch.multiprocessing.start_processes(
        _rank, passed, number, join=join, start_method=FORKED
    )


class Command:
    """A Python command, in a process group of its own.

    Args:
        words: a script with its arguments, or ``'-m'`` with a module and its arguments.
        folder: where it runs.
        environment: what differs from the variables of this process.
    """

    def __init__(self, words: Sequence[object], folder: Path = ROOT, **environment: str) -> None:
        _prepare()
        self.words = [str(word) for word in words]
        self._output = Path(tempfile.mkdtemp(prefix='command-'))
        variables = {**os.environ, 'OMP_NUM_THREADS': '1', **environment}
        self._process = CONTEXT.Process(
            target=_run, args=(self.words, str(folder), variables, str(self._output))
        )
        self._process.start()

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.exitcode

    def wait(self) -> subprocess.CompletedProcess:
        """Wait for its end."""
        self._process.join()
        out, err = ((self._output / name).read_text() for name in ('out', 'err'))
        shutil.rmtree(self._output)
        return subprocess.CompletedProcess(self.words, self.poll(), out, err)

    def kill(self) -> None:
        """Kill it with the processes that it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()
        shutil.rmtree(self._output)


def run(*words: object, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run a command; see :class:`Command`."""
    return Command(words, folder, **environment).wait()


def run_ranks(number: int, *words: object, port: str) -> subprocess.CompletedProcess:
    """Run a command as torchrun does, in so many ranks; the first that fails counts."""
    meeting = dict(WORLD_SIZE=str(number), MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    words = (*words, '--launcher', 'pytorch')
    started = [
        Command(words, RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank in range(number)
    ]
    done = [each.wait() for each in started]
    return next((each for each in done if each.returncode), done[0])


def _prepare() -> None:
    """Start the process that others are forked from, in a folder from where it finds our tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', f'{ROOT}:{os.environ.get("PYTHONPATH", "")}')
        forkserver.ensure_running()


def _rank(
    rank: int, function: Callable[..., None], variables: dict[str, str], folder: str, given: tuple
) -> None:
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    function(rank, *given)


def _run(words: list[str], folder: str, variables: Mapping[str, str], output: str) -> None:
    """Become the command."""
    os.setsid()
    for number, name in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(f'{output}/{name}', os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    torch.set_num_threads(int(variables['OMP_NUM_THREADS']))
    sys.path[:0] = variables.get('PYTHONPATH', '').split(':')
    sys.orig_argv = [sys.executable, *words]
    if words[0] == '-m':
        sys.argv = words[1:]
        sys.path.insert(0, folder)
        runpy.run_module(words[1], run_name='__main__', alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(folder, words[0]).parent))
        runpy.run_path(words[0], run_name='__main__')
