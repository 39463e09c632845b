"""Models between a student and a teacher, and which of them to take as assistants."""

import sys
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from kd_dense import commands
from kd_dense.chain.assistants import between, candidates, ranking
from kd_dense.errors import SetupError
from kd_dense.report.numbers import METRICS
from tests.helpers.models import gfl
from tests.helpers.trainings import base_config

ROOT = Path(__file__).parents[2]


def digits(width: str) -> str:
    return str(ROOT / f'configs/digits/gfl_r18-{width}_digits.py')


def test_widths_grow_in_geometric_steps():
    small, middle, large = candidates(digits('eighth'), digits('half'), 1)
    # an eighth, a quarter, half: the model between is the one that ships as such
    quarter = Config.fromfile(digits('quarter')).model
    for part in ('backbone', 'neck', 'bbox_head'):
        assert middle.model[part] == quarter[part]
    assert small.parameters < middle.parameters < large.parameters
    assert small.flops < middle.flops < large.flops


def test_widths_that_grow_alike_stay_in_proportion():
    small = ConfigDict(type='X', base=16, ins=[16, 32, 64], out=24)
    large = ConfigDict(type='X', base=40, ins=[40, 80, 160], out=48)
    # 16 * 2.5^(1/2) = 25.3, to the next multiple of 8: 24; 24 * 2^(1/2) = 33.9: 32
    made = between(small, large, 0.5)
    assert made.base == 24 and made.ins == [24, 48, 96] and made.out == 32
    assert small.ins == [16, 32, 64]


@pytest.mark.parametrize(
    ('student', 'teacher', 'words'),
    [
        (dict(depth=18), dict(depth=50), 'more than widths .depth: 18 and 50'),
        (dict(type='A'), dict(type='B'), "type: 'A' and 'B'"),
        (dict(a=[1]), dict(a=[1, 2]), 'more than widths'),
        (dict(a=8), dict(a=8), 'the same widths'),
    ],
)
def test_pairs_without_anything_between_are_refused(student, teacher, words):
    with pytest.raises(SetupError, match=words):
        between(ConfigDict(student), ConfigDict(teacher), 0.5)


def test_no_room():
    with pytest.raises(SetupError, match='no room for 4 assistants'):
        candidates(digits('quarter'), digits('half'), 4)


def test_the_nearest_to_the_middle_comes_first():
    def row(value: float) -> list[dict]:
        return [dict(steps=1, validations={'1': {'coco/bbox_mAP': value}})]

    values = dict(student=0.2, assistant_1=0.26, assistant_2=0.31, teacher=0.4)
    found = ranking({name: row(value) for name, value in values.items()}, METRICS[0])
    assert [name for name, *_ in found] == ['assistant_2', 'assistant_1']
    assert found[0][2] == pytest.approx(1.0)


def test_candidates_are_trained_and_ranked(digits_root, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    whole = base_config(digits_root, tmp_path)
    for key in ('work_dir', 'experiment_name', 'custom_imports'):
        whole.pop(key)
    for name, channels in (('small', 8), ('large', 32)):
        model = gfl(channels=channels, num_classes=10)
        Config(whole | dict(model=model)).dump(f'{name}.py')

    def trained(jobs, kept=False):
        assert [job.stage.name for job in jobs] == ['student', 'assistant_1', 'teacher']
        # a tenth of four steps, and at least one
        assert {job.config.train_cfg.max_iters for job in jobs} == {1}
        widths = [job.config.model.bbox_head.feat_channels for job in jobs]
        assert widths == [8, 16, 32]
        return {
            job.stage.name: [dict(steps=1, validations={'1': {'coco/bbox_mAP': 0.1 * number}})]
            for number, job in enumerate(jobs)
        }

    # the trainings themselves are those of any chain
    monkeypatch.setattr('kd_dense.commands.chain.run', lambda *arguments: None)
    monkeypatch.setattr('kd_dense.commands.chain.finished', trained)
    words = ['chain', '--suggest-assistants', '1', 'small.py', 'large.py']
    monkeypatch.setattr(sys, 'argv', ['kd-dense', *words])
    commands.main()
    said = capfd.readouterr().out
    assert 'assistants/small_large/assistant_1.py: AP 10.0, 0.0 from it' in said, said
    for words in (['chain'], ['chain', 'x.py', '--suggest-assistants', '1', 'a', 'b']):
        monkeypatch.setattr(sys, 'argv', ['kd-dense', *words])
        with pytest.raises(SystemExit):
            commands.main()
