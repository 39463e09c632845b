"""A student on a backbone of ours ships with its import, without the package it started from."""

import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from kd_dense.errors import SetupError
from kd_dense.export import plain_config, read_plain, write_plain
from kd_dense.hosts import build_model
from kd_dense.hosts.configs import plain_student

pytest.importorskip('timm', reason="timm is not installed: pip install 'kd_dense[pretrained]'")
ROOT = Path(__file__).parents[2]
DISTILLED = ['aquarium/ld_gfl_lite0_aquarium', 'camvid/cwd_fpn_lite0_camvid']
ALONE = ['aquarium/faster-rcnn_lite0_aquarium', 'camvid/fpn_lite0_camvid']

# builds the exported student where nothing of kd_dense was imported before, and no weights are
RUN = """
import sys
from importlib import metadata
import torch
from mmdet.apis import inference_detector, init_detector
def refuse(name, known=metadata.distribution):
    assert 'pytorch-model' not in name, f'{name} was looked for'
    return known(name)
assert not [name for name in sys.modules if name.startswith('kd_dense')]
metadata.distribution = refuse
model = init_detector('student.py', 'student.pth', device='cpu')
state = torch.load('student.pth', weights_only=True)['state_dict']
model.load_state_dict(state, strict=True)
found = inference_detector(model, 'image.jpg')
print(len(model.extract_feat(torch.zeros(1, 3, 64, 64))), len(found.pred_instances) >= 0)
"""


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    """Teachers are named by paths from the root of the repository."""
    monkeypatch.chdir(ROOT)


def read(name: str) -> Config:
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def trained(config: Config, folder: Path) -> Path:
    """A checkpoint of a student, with random weights."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        state = build_model(plain_student(config).model).state_dict()
    names = dict(classes=('a', 'b', 'c', 'd', 'e', 'f', 'g'))
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=names)), folder / 'iter_1.pth')
    return folder / 'iter_1.pth'


@pytest.mark.parametrize('name', DISTILLED)
def test_the_plain_student_imports_us_for_its_backbone(name):
    config = read(name)
    plain = plain_student(config)
    assert plain.custom_imports == dict(imports=['kd_dense'])
    assert plain.custom_hooks == []
    # trained anew it starts where it started
    assert plain.model.backbone == config.model.student.backbone


def test_a_student_that_was_ours_in_nothing_else_imports_nothing_of_ours():
    plain = plain_student(read('aquarium/ld-lite2_gfl_r18-quarter_aquarium'))
    assert 'custom_imports' not in plain
    assert 'kd_dense' not in plain_config(plain).pretty_text


@pytest.mark.parametrize('name', DISTILLED + ALONE)
def test_the_exported_config_keeps_the_backbone_and_no_package(name):
    plain = plain_config(read(name))
    assert plain.model.backbone.type == 'kd_dense.TimmBackbone'
    assert plain.model.backbone.init_cfg is None
    assert plain.custom_imports == dict(imports=['kd_dense'])
    assert plain.pretty_text.count('kd_dense') == 2  # the type and the import
    assert plain_config(plain).pretty_text == plain.pretty_text


def test_something_else_of_ours_is_refused_beside_such_a_backbone():
    config = read(ALONE[0])
    config.model.neck.type = 'kd_dense.NoSuchNeck'
    with pytest.raises(SetupError, match=r"student alone: model\.neck\.type='kd_dense.NoSuchNeck'"):
        plain_config(config)


def test_mmdet_builds_the_exported_student_and_its_file_says_what_it_needs(tmp_path):
    config = read(DISTILLED[0])
    plain = read_plain(config, str(trained(config, tmp_path)))
    _, file = write_plain(plain, tmp_path)
    first, *_ = file.read_text().splitlines()
    assert first.startswith('# Needs kd_dense and timm') and "'kd_dense[pretrained]'" in first
    cv2.imwrite(str(tmp_path / 'image.jpg'), torch.zeros(50, 70, 3).numpy())
    done = subprocess.run(
        [sys.executable, '-c', RUN], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == '3 True'


@pytest.mark.parametrize('name', ['aquarium/gfl_lite0_aquarium', 'camvid/fpn_lite0_camvid'])
def test_its_graph_computes_what_it_computes(name, tmp_path):
    pytest.importorskip('onnxruntime')
    from tests.test_export import exported, spread

    config = read(name)
    plain = read_plain(config, str(trained(config, tmp_path)))
    spread(plain.model)
    _, _, _, found = exported(plain, tmp_path, size=(96, 130))
    assert found and all(difference.fine for difference in found)
