"""Prose is readable in any window: no line of it has more than 120 characters."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 120


def files(*patterns: str) -> list[str]:
    """Files of the repository, those not yet committed included."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip('no git repository')
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def markdown(text: str) -> list[str]:
    """The lines of a page without what programs print, which is shown as it is."""
    return re.sub(r'^ *```\n.*?^ *```', '', text, flags=re.MULTILINE | re.DOTALL).splitlines()


def prose(source: str) -> list[str]:
    """The lines of docstrings and comments of a Python file."""
    lines = [
        token.line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            lines += (ast.get_docstring(node, clean=False) or '').splitlines()
    return lines


def too_long(lines: list[str]) -> list[str]:
    return [line for line in lines if len(line.rstrip('\n')) > LIMIT]


def test_pages():
    pages = files('*.md')
    assert 'README.md' in pages and 'docs/methods.md' in pages
    assert [
        f'{n}: {line}' for n in pages for line in too_long(markdown((ROOT / n).read_text()))
    ] == []


def test_docstrings_and_comments():
    found = [
        f'{n}: {line}' for n in files('*.py') for line in too_long(prose((ROOT / n).read_text()))
    ]
    assert found == []


def test_comments_of_scripts_and_settings():
    found = []
    for name in files('*.sh', '*.toml', '*.yaml', '*.cff', 'Makefile', 'requirements.txt', '.ci/*'):
        lines = (ROOT / name).read_text().splitlines()
        found += [f'{name}: {line}' for line in too_long(lines) if line.lstrip().startswith('#')]
    assert found == []


def test_what_counts_as_prose():
    long = 'x' * (LIMIT + 1)
    assert too_long(markdown(f'a\n```\n{long}\n```\nb')) == []
    assert too_long(markdown(f'```bash\n{long}\n```')) == [long]
    source = f'"""{long}"""\n# {long}\nvalue = "{long}"\n'
    assert len(too_long(prose(source))) == 2
