"""The console command: its list, its subcommands, and the scripts that call the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd_dense import commands
from kd_dense.commands import COMMANDS, command_to
from kd_dense.record import command_used
from kd_dense.version import __version__

ROOT = Path(__file__).parents[1]


def run(monkeypatch, *arguments: str) -> int | None:
    """Call the command with arguments; its exit status."""
    monkeypatch.setattr(sys, 'argv', ['/somewhere/bin/kd-dense', *arguments])
    try:
        commands.main()
    except SystemExit as stopped:
        return stopped.code
    return None


@pytest.mark.parametrize('arguments', [(), ('--help',), ('-h',)])
def test_without_a_command_the_list_is_shown(arguments, monkeypatch, capsys):
    assert run(monkeypatch, *arguments) is None
    shown = capsys.readouterr().out
    assert all(re.search(rf'^  {name} +\w', shown, re.MULTILINE) for name in COMMANDS)


def test_the_version_is_told(monkeypatch, capsys):
    run(monkeypatch, '--version')
    assert capsys.readouterr().out == f'{__version__}\n'


def test_an_unknown_command_is_named_beside_the_list(monkeypatch, capsys):
    assert run(monkeypatch, 'trian') == 2
    told = capsys.readouterr().err
    assert told.startswith("kd-dense: there is no command 'trian'.") and '  train ' in told


@pytest.mark.parametrize('name', COMMANDS)
def test_each_command_shows_its_options(name, monkeypatch, capsys):
    assert run(monkeypatch, name, '--help') == 0
    assert capsys.readouterr().out.startswith(f'usage: kd-dense {name} ')


def test_each_command_has_a_script_and_each_script_a_command():
    scripts = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    assert scripts == {name.replace('-', '_') for name in COMMANDS}
    for name in scripts:
        text = (ROOT / 'tools' / f'{name}.py').read_text()
        assert f'from kd_dense.commands.{name} import main\n' in text
        assert len(text.splitlines()) < 12


def test_python_runs_the_package():
    done = subprocess.run([sys.executable, '-m', 'kd_dense'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('usage: kd-dense COMMAND')


def test_the_command_used_is_written_down_as_it_was_called(monkeypatch):
    for called, told in (
        (['/v/python', '/v/bin/kd-dense', 'export', 'a b.py'], "kd-dense export 'a b.py'"),
        (['/v/python', 'tools/export.py', 'a.py'], 'python tools/export.py a.py'),
        (['/v/python', '-m', 'kd_dense', 'export', 'a.py'], 'python -m kd_dense export a.py'),
    ):
        monkeypatch.setattr(sys, 'orig_argv', called)
        assert command_used() == told


def test_the_next_command_is_told_the_way_this_one_was_called(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/distill.py', 'x'])
    assert command_to('train', Path('a/b.py')) == 'python tools/train.py a/b.py'
    monkeypatch.setattr(sys, 'argv', ['kd-dense distill', 'x'])
    assert command_to('train', 'my config.py') == "kd-dense train 'my config.py'"
