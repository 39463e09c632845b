"""The short check finds nothing wrong with any shipped config."""

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from kd_dense import MODELS
from kd_dense.check import WRONG, before_training
from kd_dense.hosts.configs import is_distiller, teachers_of
from tests.test_configs import CONFIGS, ROOT, read

DISTILLERS = [n for n in CONFIGS if is_distiller(Config.fromfile(ROOT / 'configs' / n))]


@pytest.mark.parametrize('name', DISTILLERS)
def test_nothing_is_wrong_with_a_shipped_config(name, monkeypatch):
    if 'lite' in name:
        pytest.importorskip('timm', reason='needs the extra `pretrained`')
    monkeypatch.chdir(ROOT)
    config = read(name)
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        distiller = MODELS.build(config.model)
    report = before_training(config, distiller, name)
    assert report.findings(WRONG) == []
    teachers = teachers_of(config.model).items()
    untrained = {name for name, teacher in teachers if teacher.get('untrained')}
    assert {line.item for line in report.findings()} == untrained
