"""The page of results is what the rows give, and what somebody wrote below a table stays."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from kd_dense.chain.rows import as_list

ROOT = Path(__file__).parents[2]
CONFIG = """
model = dict(type='Nothing')
train_dataloader = dict(dataset=dict(ann_file='nowhere.json'))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=100)
"""
CHAIN = """# What a student of two lines
# learns of its teacher
# python tools/chain.py configs/chains/small.py
rows = 'docs/results/small'
seeds = [0, 1]
stages = dict(
    teacher=dict(config='small_config.py', once=True),
    taught=dict(title='the student', config='small_config.py', options={'load_from': '{teacher}'}),
)
compare = dict(alone=dict(config='small_config.py'))
"""


@pytest.fixture
def results() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location('results', ROOT / 'docs/results.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_rows_give(results, monkeypatch):
    monkeypatch.chdir(ROOT)
    told = 'is not what the rows give: run `make results`'
    assert (ROOT / 'docs/results.md').read_text() == results.page(), f'docs/results.md {told}'


@pytest.fixture
def small(results, tmp_path, monkeypatch) -> Path:
    """A repository of one chain with all its rows but one, and of one chain without rows."""
    monkeypatch.chdir(tmp_path)
    chains, rows = tmp_path / 'configs/chains', tmp_path / 'docs/results'
    for name, place in (('ROOT', tmp_path), ('CHAINS', chains), ('ROWS', rows)):
        monkeypatch.setattr(results, name, place)
    for path in (chains, rows / 'small'):
        path.mkdir(parents=True)
    (tmp_path / 'small_config.py').write_text(CONFIG)
    (chains / 'small.py').write_text(CHAIN)
    (chains / 'other.py').write_text(CHAIN.replace('small/', 'other/'))
    scores = dict(teacher=0.6, taught_seed0=0.5, taught_seed1=0.52, alone_seed0=0.4)
    for name, score in scores.items():
        stage, _, seed = name.partition('_seed')
        row = dict(
            stage=stage,
            run_seed=int(seed) if seed else None,
            config='small_config.py',
            **(dict(options={'load_from': '{teacher}'}) if stage == 'taught' else {}),
            seed=int(seed) if seed else None,
            steps=100,
            unit='max_iters',
            minutes=3,
            parameters=2_000_000 if stage == 'teacher' else 1_000_000,
            validations={
                '50': {'coco/bbox_mAP': score / 2, 'coco/bbox_mAP_50': score},
                '100': {'coco/bbox_mAP': score, 'coco/bbox_mAP_50': score},
            },
        )
        (rows / f'small/{name}.json').write_text(json.dumps(dict(fingerprint='x', row=row)))
    return tmp_path


def test_a_section_has_comment_command_table_and_what_is_missing(results, small):
    page = results.page()
    assert page.count('\n## ') == 1  # none of the chain without rows
    section = page[page.index('## small') :].replace('\N{NO-BREAK SPACE}', ' ')
    assert section.splitlines() == [
        '## small',
        '',
        'What a student of two lines',
        'learns of its teacher.',
        '',
        '```bash',
        'kd-dense chain configs/chains/small.py',
        '```',
        '',
        '| stage | AP | AP at 1/3 | over alone | parameters | seeds | minutes |',
        '| --- | --: | --: | --: | --: | --: | --: |',
        '| teacher | 60.0 | 30.0 |  | 2.00 M | 1 | 3.0 |',
        '| alone | 40.0 | 20.0 |  | 1.00 M | 1 | 3.0 |',
        '| the student | 51.0 ± 1.0 | 25.5 ± 0.5 | +10.0 | 1.00 M | 2 | 3.0 |',
        '',
        '- the student: +10.0 over alone, 50% of the gap to teacher.',
        '- 4 of 5 trainings are done.',
    ]


def test_what_was_written_below_a_table_stays(results, small):
    (small / 'docs/results/small/reading.md').write_text('It is *good*.\n')
    for _ in range(2):
        page = results.page()
        (small / 'docs/results.md').write_text(page)
        assert page.endswith('trainings are done.\n\nIt is *good*.\n')


def test_rows_of_other_settings_are_told_on_every_machine_alike(results, small):
    assert 'Kept rows' not in results.page()  # though the data is not here
    file = small / 'configs/chains/small.py'
    file.write_text(CHAIN.replace("'{teacher}'}", "'{teacher}', 'model.init_cfg': None}"))
    told = ' '.join(results.page().split())
    assert 'names now: taught, seed 0; taught, seed 1.' in told


def test_long_sentences_are_broken_as_prose_is():
    lines = as_list(['word ' * 40, 'short'])
    assert [line[:6] for line in lines] == ['- word', '  word', '- shor']
    assert max(map(len, lines)) <= 120
