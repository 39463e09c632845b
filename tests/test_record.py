"""run.json: a training says itself what it was."""

import json
import os
import time

import pytest
from mmengine.config import Config

from kd_dense.errors import SetupError
from kd_dense.record import FILE, minutes, network, read_record, recorded, versions
from tests.helpers.models import distiller, gfl


def config(tmp_path, **changes) -> Config:
    return Config(dict(model=gfl(), work_dir=str(tmp_path), randomness=dict(seed=7)) | changes)


def test_a_training_is_recorded_from_its_start_to_its_end(tmp_path):
    with recorded(config(tmp_path), 'a.py', 'kd-dense train a.py'):
        during = read_record(tmp_path)
    record = read_record(tmp_path)
    assert record['command'] == 'kd-dense train a.py'
    assert (record['seed'], record['role'], record['config']) == (7, 'plain', 'a.py')
    assert record['folder'] == os.getcwd() and record['teachers'] == {}
    assert [during['starts'][0][key] for key in ('end', 'ended')] == [None, 'running']
    assert record['starts'][0]['ended'] == 'finished' and record['starts'][0]['end']
    assert {'Python', 'kd_dense', 'torch', 'mmengine', 'mmcv', 'mmdet'} <= set(record['versions'])


def test_the_members_of_an_ensemble_are_recorded_one_by_one(tmp_path):
    members = {name: dict(config=gfl(), checkpoint=f'{name}.pth') for name in 'ab'}
    model = distiller(teacher=dict(type='kd_dense.Ensemble', members=members))
    with recorded(config(tmp_path, model=model), 'a.py'):
        pass
    teachers = read_record(tmp_path)['teachers']
    assert set(teachers) == {'teacher.a', 'teacher.b'}
    assert teachers['teacher.b']['checkpoint'].endswith('/b.pth')
    assert teachers['teacher.b']['network'] == network(gfl(), 'teacher')


@pytest.mark.parametrize(
    ('error', 'ended'), [(KeyboardInterrupt, 'interrupted'), (RuntimeError, 'failed')]
)
def test_how_it_ended_is_told(tmp_path, error, ended):
    with pytest.raises(error), recorded(config(tmp_path), 'a.py'):
        raise error
    assert read_record(tmp_path)['starts'][0]['ended'] == ended


def test_a_resumed_training_has_several_starts_and_a_new_one_begins_anew(tmp_path):
    for _ in range(2):
        with recorded(config(tmp_path), 'a.py'):
            pass
    assert len(read_record(tmp_path)['starts']) == 1
    with recorded(config(tmp_path, resume=True), 'a.py'):
        pass
    assert len(read_record(tmp_path)['starts']) == 2


def test_who_taught_is_told_with_its_file(tmp_path):
    teacher = dict(config=gfl(channels=32), checkpoint='work/teacher.pth')
    model = distiller(teacher=teacher)
    with recorded(config(tmp_path, model=model), 'a.py'):
        pass
    record = read_record(tmp_path)
    assert record['role'] == 'distilled' and list(record['teachers']) == ['teacher']
    found = record['teachers']['teacher']
    assert found['checkpoint'] == os.path.abspath('work/teacher.pth')
    assert found['network'] == network(gfl(channels=32)) != record['network'] == network(gfl())


def test_a_network_is_the_same_however_it_is_trained():
    other = gfl()
    other['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='x')
    other['train_cfg']['pos_weight'] = 3
    assert network(gfl()) == network(dict(model=other)) == network(distiller())
    assert network(gfl()) != network(gfl(base=16))


def test_the_minutes_of_a_killed_start_end_with_its_log(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'a.log').write_text('')
    at = time.time()
    os.utime(tmp_path / 'a' / 'a.log', (at, at))

    def stamp(minute: float) -> str:
        return time.strftime('%Y-%m-%dT%H:%M:%S+00:00', time.gmtime(at + 60 * minute))

    starts = [
        dict(begin=stamp(-10), end=stamp(-6), ended='finished'),
        dict(begin=stamp(-2), end=None, ended='running'),
    ]
    assert minutes(dict(starts=starts), tmp_path) == pytest.approx(6, abs=0.05)
    assert minutes(dict(starts=[dict(starts[1])]), tmp_path / 'nowhere') is None


def test_no_record_is_none_and_a_damaged_one_is_named(tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / FILE).write_text('{"role": ')
    with pytest.raises(SetupError, match=r'run\.json cannot be read .* Remove it'):
        read_record(tmp_path)
    (tmp_path / FILE).write_text(json.dumps(dict(role='plain')))
    assert read_record(tmp_path) == dict(role='plain')


def test_versions_are_of_what_is_installed():
    import torch

    assert versions()['torch'].split('+')[0] == torch.__version__.split('+')[0]
