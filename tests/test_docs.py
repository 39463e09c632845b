"""README and docs hold: their commands are accepted, their links resolve, their code runs."""

import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from inspect import signature
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from kd_dense import MODELS, FeatureImitation, commands
from kd_dense.hosts import build_model, read_config_file, read_model_config
from kd_dense.hosts.configs import plain_student
from kd_dense.launch import override
from tests.helpers.models import gfl
from tests.test_compose import ten, whole

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / 'README.md',
    *(ROOT / name for name in ('CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md')),
    *sorted((ROOT / 'docs').glob('*.md')),
    *sorted((ROOT / 'configs').rglob('*.md')),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# what a command writes or its user brings; all else that it names has to be there
PLACEHOLDERS = ('my_', 'work_dirs/', 'CONFIG', 'STUDENT', 'TEACHER')


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


# -- commands ----------------------------------------------------------------------------------


def blocks(page: Path, *languages: str) -> list[str]:
    """Fenced code of some languages."""
    fences = re.findall(r'^ *```(\w*)\n(.*?)^ *```', page.read_text(), re.MULTILINE | re.DOTALL)
    return [code for language, code in fences if language in languages]


def commands_of(page: Path) -> list[list[str]]:
    """The commands of a page's shell code, and of what it shows after a prompt, as words."""
    lines = [line for code in blocks(page, 'bash') for line in joined(code)]
    lines += [line for code in blocks(page, '') for line in joined(code) if line.startswith('$ ')]
    found = []
    for line in lines:
        words = shlex.split(line.removeprefix('$ ').replace('$seed', '0'), comments=True)
        while words and re.fullmatch(r'\w+=\S*', words[0]):  # of the environment
            words.pop(0)
        if words and words[0] not in ('for', 'done', 'export', 'source'):
            found.append(words[: words.index('>')] if '>' in words else words)
    return found


def joined(code: str) -> list[str]:
    return [line.strip() for line in code.replace('\\\n', ' ').splitlines()]


COMMANDS = [(name, words) for name, page in zip(NAMES, PAGES, strict=True)
            for words in commands_of(page)]  # fmt: skip


class ParsedError(Exception):
    """Carries what a tool's parser made of its arguments."""


def call(command: str, arguments: list[str], monkeypatch) -> None:
    """Run a command of ours in this process."""
    monkeypatch.setattr(sys, 'argv', ['kd-dense', command, *arguments])
    commands.main()


def parse(command: str, arguments: list[str], monkeypatch) -> tuple[ArgumentParser, Namespace]:
    """What the parser of a command of ours makes of arguments, without running the command."""
    original = ArgumentParser.parse_args

    def stop(parser, *given):
        raise ParsedError(parser, original(parser, *given))

    monkeypatch.setattr(ArgumentParser, 'parse_args', stop)
    with pytest.raises(ParsedError) as parsed:
        call(command, arguments, monkeypatch)
    return parsed.value.args


def assert_config(name: str) -> Config | None:
    """That a config which a command names is there; None where its user has to bring it."""
    if name.startswith(PLACEHOLDERS):
        return None
    return read_config_file(name, 'student')


def assert_options(config: Config, options: dict) -> None:
    """That a config has what a command overrides."""
    for key in options:
        first, *rest = key.split('.')
        assert first in config or first in signature(Runner).parameters, key
        if first == 'model':
            place = config.model
            for part in rest[:-1]:
                place = place[int(part) if isinstance(place, list) else part]
            ours = str(place.get('type')).startswith('kd_dense.')
            known = signature(MODELS.get(place.type)).parameters if ours else place
            assert rest[-1] in known, key
    override(config, options)


def test_the_pages_have_commands():
    assert {name for name, _ in COMMANDS} >= {
        'README.md', 'docs/benchmarks.md', 'docs/check.md', 'docs/distill.md', 'docs/export.md',
        'docs/own_data.md', 'docs/report.md', 'docs/troubleshooting.md', 'docs/add_a_loss.md',
    }  # fmt: skip
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(
    ('page', 'words'), COMMANDS, ids=[f'{name}: {" ".join(words)}'[:90] for name, words in COMMANDS]
)
def test_a_command_is_accepted(page, words, monkeypatch):
    program, *arguments = words
    if program == 'python' and arguments[0].startswith('tools/'):  # a script is a command
        script, *arguments = arguments
        assert (ROOT / script).is_file(), script
        program, arguments = 'kd-dense', [Path(script).stem.replace('_', '-'), *arguments]
    if program == 'make':
        assert re.search(rf'^{arguments[0]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    elif program.startswith('tools/'):
        assert (ROOT / program).is_file()
        config = assert_config(arguments[0])
        if '--cfg-options' in arguments:
            options = arguments[arguments.index('--cfg-options') + 1 :]
            assert_options(config, dict(option.split('=') for option in options))
    elif program == 'kd-dense':
        _, args = parse(arguments[0], arguments[1:], monkeypatch)
        sources = [getattr(args, name, None) for name in ('config', 'student', 'teacher')]
        configs = [assert_config(source) for source in sources if source]
        if options := getattr(args, 'cfg_options', None):
            assert_options(configs[0], options)
    else:  # of others, which are not here
        assert words[0] in ('git', 'pip', 'python')
        assert words[0] != 'python' or words[1] in ('MMDETECTION/tools/test.py', 'predict_onnx.py')


def test_tools_and_configs_named_in_the_text_are_there():
    for page in PAGES:
        for path in re.findall(r'`(?:python )?((?:tools|configs)/[\w./-]+\w)', page.read_text()):
            assert 'COMMAND' in path or (ROOT / path).exists(), f'{page.name}: {path}'


def test_options_in_tables_are_those_of_the_command(monkeypatch):
    text = (ROOT / 'docs' / 'tools.md').read_text()
    rows = [(name, line) for name in commands.COMMANDS
            for line in text.splitlines() if line.startswith(f'| `kd-dense {name}` |')]  # fmt: skip
    assert [name for name, _ in rows] == list(commands.COMMANDS)
    for name in ('distill', 'export', 'report'):
        text = (ROOT / 'docs' / f'{name}.md').read_text()
        rows += [(name, line) for line in text.splitlines() if line[:5] == '| `--']
    needed = {'distill': ['x', '--teacher', 'x', '--checkpoint', 'x'], 'test': ['x', 'x'],
              'export': ['x', 'x'], 'specialists': ['x', 'x'], 'anytime': ['x', 'x'],
              'benchmark': [],
              'class-bias': ['x', 'x', '--class', 'x'],
              'study': ['--data', 'x', '--student', 'x', '--teacher', 'x']}  # fmt: skip
    assert len(rows) > 20
    for name, row in rows:
        with monkeypatch.context() as patch:
            parser, _ = parse(name, needed.get(name, ['x']), patch)
        known = parser._option_string_actions
        for option in re.findall(r'--[a-z][\w-]*', row):
            assert option in known, f'{name} has no {option}: {row}'


# -- links -------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What links may name of a page: its headings, as GitHub writes them."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(), re.MULTILINE)
    plain = (re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings)
    return {heading.replace(' ', '-') for heading in plain}


@pytest.mark.parametrize('name', NAMES)
def test_relative_links_resolve(name):
    page = ROOT / name
    text = page.read_text()
    links = re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'<img src="([^"]+)"', text)
    for link in links:
        if '://' in link:
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme():
    seen, waiting = set(), [PAGES[0]]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        links = re.findall(r'\]\(([^)\s#]+\.md)', page.read_text())
        targets = {(page.parent / link).resolve() for link in links if '://' not in link}
        waiting += [target for target in targets if target not in seen]
    assert seen == set(PAGES)


# -- code --------------------------------------------------------------------------------------


def test_every_loss_in_the_docs_is_built():
    built = []
    for page in PAGES:
        for code in blocks(page, 'python'):
            if code.startswith('losses = '):
                scope: dict = {}
                exec(code, scope)
                built += [type(MODELS.build(dict(loss))) for loss in scope['losses'].values()]
    ours = {cls for cls in MODELS.module_dict.values() if cls.__module__.startswith('kd_dense.lo')}
    assert FeatureImitation in ours and set(built) == ours  # each method has its config


def test_the_documented_loss_runs_when_followed_literally(digits_root, tmp_path, monkeypatch):
    loss, config = blocks(ROOT / 'docs' / 'add_a_loss.md', 'python')
    for name in ('configs', 'kd_dense'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'my_loss.py').write_text(loss)
    (tmp_path / 'my_config.py').write_text(config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('DIGITS_ROOT', str(digits_root))
    for role, model in (('student', gfl()), ('teacher', gfl(channels=32))):
        whole(tmp_path / f'{role}.py', ten(model))
    teacher = build_model(read_model_config('teacher.py', 'teacher'))
    torch.save(dict(state_dict=teacher.state_dict()), 'teacher.pth')
    # its own words, with a small pair in the place of the large one
    text = config.replace('configs/digits/gfl_r18-quarter_digits.py', 'student.py')
    text = text.replace('configs/digits/gfl_r18-half_digits.py', 'teacher.py')
    text = text.replace('work_dirs/gfl_r18-half_digits/iter_2000.pth', 'teacher.pth')
    (tmp_path / 'my_config.py').write_text(text)
    call('train', ['my_config.py', '--work-dir', 'out'], monkeypatch)
    assert (tmp_path / 'out' / 'iter_2_student.pth').is_file()
    saved = torch.load('out/iter_2.pth', weights_only=False)['state_dict']
    assert 'losses.cosine.adapters.0.weight' in saved
    balance = (tmp_path / 'out' / 'loss_balance.json').read_text()
    assert 'cosine' in balance
    plain = plain_student(Config.fromfile('my_config.py'))  # which needs nothing of ours
    assert 'custom_imports' not in plain and plain.model.type == 'GFL'


# -- pages -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pages_and_the_reference_build_without_a_warning(tmp_path):
    for package in ('sphinx', 'myst_parser', 'furo'):
        pytest.importorskip(package, reason='needs the extra `docs`')
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html']
    command += ['-d', str(tmp_path / 'trees'), str(ROOT / 'docs'), str(tmp_path / 'pages')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / 'pages' / 'reference.html').read_text()
    for name in ('kd_dense.Distiller', 'kd_dense.losses.LocalizationDistillation'):
        assert f'id="{name}"' in reference
