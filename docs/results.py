"""Write docs/results.md from the rows that chains keep in docs/results: `make results`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from kd_dense.chain import Chain, doubts, finished, read_chain, summary
from kd_dense.chain.rows import as_list

ROOT = Path(__file__).parents[1]
CHAINS, ROWS, PAGE = ROOT / 'configs/chains', ROOT / 'docs/results', ROOT / 'docs/results.md'
INTRODUCTION = """\
# Results of the chains

What `make results` makes of the rows that [chains](chains.md) keep in `docs/results`; nothing here
is typed. Of several seeds it is the mean ± its standard error. `at 1/3` is the metric after a third
of the schedule, `over` a control the gain over it, seed by seed, where both have as many weights;
minutes are those of one training. The rows also have what is not shown: all validations and
metrics, commands, versions.
"""


def page() -> str:
    """The whole page: a section for each chain that has rows."""
    files = sorted(path for path in CHAINS.glob('*.py') if any((ROWS / path.stem).glob('*.json')))
    return '\n'.join([INTRODUCTION, *('\n'.join(section(path)) for path in files)])


def section(path: Path) -> Iterator[str]:
    """The lines of a chain: what it is, its command, its table, and how somebody reads it."""
    chain = read_chain(path)
    rows = finished(chain.jobs, kept=True)
    file = path.relative_to(ROOT)
    yield from (f'## {path.stem}', '', f'{about(path)}.', '')
    yield from ('```bash', f'kd-dense chain {file}', '```', '')
    # whether the data is here would tell machines apart
    below = as_list([*doubts(chain.jobs, with_data=False), *progress(chain, rows)])
    yield from (*summary(chain, rows, markdown=True), *below, '')
    reading = ROWS / path.stem / 'reading.md'
    if reading.is_file():
        yield from (reading.read_text(encoding='utf-8').strip(), '')


def about(path: Path) -> str:
    """The first comment of a chain file, without its command."""
    lines = path.read_text(encoding='utf-8').splitlines()
    count = next(number for number, line in enumerate(lines) if line.startswith('# python '))
    return '\n'.join(line.removeprefix('# ') for line in lines[:count])


def progress(chain: Chain, rows: dict[str, list]) -> list[str]:
    """How much of a chain is done, where it is not all."""
    done = sum(map(len, rows.values()))
    return [f'{done} of {len(chain.jobs)} trainings are done.'] if done < len(chain.jobs) else []


if __name__ == '__main__':
    PAGE.write_text(page(), encoding='utf-8')
    print(PAGE.relative_to(ROOT), file=sys.stderr)
