"""The teacher: loaded completely or not at all, frozen, and equal to the plain model."""

import copy

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config
from torch import nn

from kd_dense.errors import SetupError
from kd_dense.teachers import FrozenTeacher, teacher_from
from kd_dense.views import Batch, OneStageView
from tests.helpers.models import FLOAT16, gfl
from tests.helpers.pairs import HOSTS, batch_for, build, raw


@MMDET_MODELS.register_module()
class CrossedResNet(ResNet):
    """Registers another convolution between the first one and its batch norm."""

    def __init__(self, width: int, **kwargs) -> None:
        super().__init__(**kwargs)
        norm = self._modules.pop(self.norm1_name)
        self.crossing = nn.Conv2d(8, width, 1)
        self.add_module(self.norm1_name, norm)


def crossed(width: int) -> dict:
    config = gfl()
    config['backbone'].update(type='CrossedResNet', width=width)
    return config


def save(model: nn.Module, path, **more) -> str:
    torch.save(dict(state_dict=model.state_dict(), **more), path)
    return str(path)


def loaded(config: dict, path: str, **choices) -> FrozenTeacher:
    teacher = FrozenTeacher(config, path, **choices)
    teacher.load(build(gfl()))
    return teacher


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def check_same(ours: OneStageView, theirs: OneStageView, tolerance: float = 1e-4) -> None:
    for name in ('features', 'cls_logits', 'box_logits'):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            scale = b.abs().max().item()
            torch.testing.assert_close(a.float(), b, rtol=0, atol=tolerance * scale)


# -- equal to the plain model ------------------------------------------------------------------


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('fast', [True, False])
def test_a_teacher_shows_what_the_plain_model_computes(tmp_path, host, fast):
    plain = build(HOSTS[host](), seed=1)
    path = save(plain, tmp_path / 'plain.pth')
    student = build(gfl())
    teacher = loaded(HOSTS[host](), path, fast=fast)
    batch = batch_for(student)
    view = teacher.view(batch)
    check_same(view, OneStageView(plain, batch, torch.no_grad))
    assert norms(teacher.model) == (0 if fast else norms(plain))
    assert norms(plain) > 10
    assert not view.features[0].requires_grad and not view.cls_logits[0].requires_grad
    assert view.batch.images.is_contiguous(
        memory_format=torch.channels_last if fast else torch.contiguous_format
    )


@pytest.mark.parametrize('dtype', ['bfloat16', FLOAT16])
def test_a_teacher_may_run_in_half_precision(tmp_path, dtype):
    plain = build(gfl(), seed=1)
    teacher = loaded(gfl(), save(plain, tmp_path / 'plain.pth'), dtype=dtype)
    batch = batch_for(build(gfl()))
    view = teacher.view(batch)
    assert view.features[0].dtype == view.cls_logits[0].dtype == getattr(torch, dtype)
    assert view.flat_cls_logits.dtype == torch.float32
    tolerance = {'bfloat16': 0.1, 'float16': 0.02}[dtype]
    check_same(view, OneStageView(plain, batch, torch.no_grad), tolerance)


def test_autocast_around_leaves_the_teachers_precision(tmp_path):
    teacher = loaded(gfl(), save(build(gfl(), seed=1), tmp_path / 'plain.pth'))
    batch = batch_for(build(gfl()))
    expected = teacher.view(batch).flat_cls_logits
    with torch.autocast('cpu', dtype=torch.bfloat16):
        view = teacher.view(batch)
        assert torch.equal(view.flat_cls_logits, expected)


def test_a_teacher_sees_images_its_own_way(tmp_path):
    config = gfl()
    config['data_preprocessor'].update(mean=[103.5, 116.3, 123.7], std=[1.0] * 3, bgr_to_rgb=False)
    plain = build(config, seed=1)
    teacher = loaded(config, save(plain, tmp_path / 'plain.pth'))
    ours = teacher.view(batch_for(build(gfl())))
    data = plain.data_preprocessor(raw(), True)
    theirs = OneStageView(plain, Batch(data['inputs'], data['data_samples']), torch.no_grad)
    torch.testing.assert_close(ours.batch.images, theirs.batch.images, rtol=1e-5, atol=1e-3)
    check_same(ours, theirs, 1e-3)


@pytest.mark.parametrize('width', [8, 5])
def test_folding_that_would_change_the_outputs_is_undone(tmp_path, width):
    # mmcv would fold the norm of the first convolution into the crossing one, of 8 channels like
    # the norm, or of 5, where the attempt fails
    plain = build(crossed(width), seed=1)
    teacher = loaded(crossed(width), save(plain, tmp_path / 'plain.pth'))
    batch = batch_for(build(gfl()))
    check_same(teacher.view(batch), OneStageView(plain, batch, torch.no_grad))
    assert norms(teacher.model.backbone) == norms(plain.backbone) > 10
    for name, value in plain.state_dict().items():
        assert torch.equal(teacher.model.state_dict()[name], value), name


def test_parts_are_folded_each_on_its_own(tmp_path):
    config = crossed(8)
    config['neck']['norm_cfg'] = dict(type='BN')
    plain = build(config, seed=1)
    teacher = loaded(config, save(plain, tmp_path / 'plain.pth'))
    batch = batch_for(build(gfl()))
    check_same(teacher.view(batch), OneStageView(plain, batch, torch.no_grad))
    assert norms(teacher.model.backbone) > 10
    assert norms(teacher.model.neck) == 0 and norms(plain.neck) == 6


# -- frozen ------------------------------------------------------------------------------------


def test_a_loaded_teacher_is_frozen_in_evaluation(tmp_path):
    teacher = loaded(gfl(), save(build(gfl(), seed=1), tmp_path / 'plain.pth'))
    assert not any(m.training for m in teacher.model.modules())
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not isinstance(teacher, nn.Module)


def test_copies_share_the_teacher(tmp_path):
    teacher = FrozenTeacher(gfl(), 'never-read.pth')
    assert copy.deepcopy(teacher) is teacher
    assert copy.deepcopy(dict(teacher=teacher))['teacher'] is teacher


def test_a_teacher_is_built_when_first_asked_for():
    teacher = FrozenTeacher('gone.py', 'gone.pth')
    assert not teacher.loaded
    with pytest.raises(FileNotFoundError, match=r'config of the teacher was not found: gone\.py'):
        _ = teacher.model


def test_a_teacher_loads_once(tmp_path):
    path = tmp_path / 'plain.pth'
    save(build(gfl(), seed=1), path)
    teacher = loaded(gfl(), str(path))
    path.unlink()
    teacher.load(build(gfl()))
    assert teacher.loaded


def test_a_view_before_loading_is_a_mistake_of_ours():
    with pytest.raises(RuntimeError, match='was not loaded'):
        FrozenTeacher(gfl(), untrained=True).view(Batch(torch.zeros(1, 3, 64, 64), []))


def test_building_and_loading_leave_the_random_state_alone(tmp_path):
    path = save(build(gfl(), seed=1), tmp_path / 'plain.pth')
    student = build(gfl())
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    FrozenTeacher(gfl(), path).load(student)
    FrozenTeacher(gfl(), untrained=True).load(student)
    assert torch.equal(torch.rand(3), expected)


def test_a_teacher_is_described_by_its_head():
    info = FrozenTeacher(gfl(channels=32), untrained=True).info
    assert (info.head, info.strides, info.num_classes) == ('GFLHead', (8, 16, 32), 3)


# -- checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize('prefix', ['', 'module.', 'student.', 'module.student.'])
def test_checkpoints_of_wrappers_and_distillers_load(tmp_path, prefix):
    plain = build(gfl(), seed=1)
    state = {f'{prefix}{k}': v for k, v in plain.state_dict().items()}
    if 'student' in prefix:
        state['losses.hint.adapters.0.weight'] = torch.zeros(1)
    torch.save(dict(state_dict=state), tmp_path / 'wrapped.pth')
    teacher = loaded(gfl(), str(tmp_path / 'wrapped.pth'), fast=False)
    for name, value in plain.state_dict().items():
        assert torch.equal(teacher.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        (dict(CLASSES=('cat', 'dog', 'cow')), ('cat', 'dog', 'cow')),  # 2.x
        (dict(dataset_meta=dict(classes=('cat', 'dog', 'cow'))), ('cat', 'dog', 'cow')),
        ({}, None),
    ],
)
def test_class_names_are_those_of_the_checkpoint(tmp_path, meta, expected):
    teacher = loaded(gfl(), save(build(gfl()), tmp_path / 'plain.pth', meta=meta))
    assert teacher.classes == expected


def test_a_missing_checkpoint_is_named_before_anything_runs():
    teacher = FrozenTeacher(gfl(), 'gone.pth')
    with pytest.raises(FileNotFoundError, match=r'of the teacher was not found: gone\.pth'):
        teacher.load(build(gfl()))
    assert not teacher.loaded


def test_a_missing_checkpoint_names_the_command_that_makes_it(tmp_path):
    path = tmp_path / 'teacher.py'
    path.write_text(f'model = {gfl()}')
    with pytest.raises(FileNotFoundError, match=rf'kd-dense train {path}'):
        FrozenTeacher(str(path), 'gone.pth').load(build(gfl()))


def cut_short(state: dict) -> None:
    del state['bbox_head.gfl_cls.weight']


def with_more(state: dict) -> None:
    state['bbox_head.extra.weight'] = torch.zeros(2)


def with_other_shape(state: dict) -> None:
    state['bbox_head.gfl_cls.weight'] = torch.zeros(80, 16, 3, 3)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (cut_short, r'missing: bbox_head\.gfl_cls\.weight; unexpected: none'),
        (with_more, r'missing: none; unexpected: bbox_head\.extra\.weight'),
        (with_other_shape, r'gfl_cls\.weight \(80, 16, 3, 3\) instead of \(3, 16, 3, 3\)'),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path, spoil, message):
    state = dict(build(gfl(), seed=1).state_dict())
    spoil(state)
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    teacher = FrozenTeacher(gfl(), tmp_path / 'other.pth')
    before = copy.deepcopy(teacher.model.state_dict())
    with pytest.raises(SetupError, match=message):
        teacher.load(build(gfl()))
    assert not teacher.loaded
    for name, value in teacher.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_preprocessor_that_does_not_fit_is_refused_when_loading():
    config = gfl()
    config['data_preprocessor']['pad_size_divisor'] = 64
    teacher = FrozenTeacher(config, untrained=True)
    with pytest.raises(SetupError, match='padded to a multiple of 64 pixels'):
        teacher.load(build(gfl()))
    assert not teacher.loaded


# -- configuring -------------------------------------------------------------------------------


def test_a_teacher_without_checkpoint_is_refused_unless_asked_for():
    with pytest.raises(SetupError, match=r'has no checkpoint.*`teacher\.untrained=True`'):
        FrozenTeacher(gfl())
    teacher = FrozenTeacher(gfl(), untrained=True)
    teacher.load(build(gfl()))
    assert teacher.loaded and teacher.classes is None


def test_an_unknown_dtype_is_refused():
    with pytest.raises(SetupError, match=r"dtype is 'int8'; choose one of float32, bfloat16, flo"):
        FrozenTeacher(gfl(), untrained=True, dtype='int8')


@pytest.mark.parametrize(
    'config', [dict(checkpoint='a.pth'), dict(config='a.py', checkpiont='a.pth'), {}]
)
def test_unknown_and_missing_keys_are_refused(config):
    words = r'configured by `config`, `checkpoint`, .*of which it needs `config`; found'
    with pytest.raises(SetupError, match=words):
        teacher_from(config)


def test_a_teacher_comes_from_its_config_or_as_it_is():
    teacher = teacher_from(Config(dict(t=dict(config='a.py', checkpoint='a.pth', fast=False))).t)
    assert (teacher.checkpoint, teacher.fast, teacher.same_classes) == ('a.pth', False, True)
    assert teacher_from(teacher) is teacher


def test_a_compiled_teacher_has_trunk_and_blocks_of_heads_compiled(monkeypatch):
    found = []
    monkeypatch.setattr(nn.Module, 'compile', lambda module: found.append(module))
    teacher = FrozenTeacher(gfl(), untrained=True, compiled=True)
    teacher.load(build(gfl()))
    head = teacher.model.bbox_head
    assert found[:2] == [teacher.model.backbone, teacher.model.neck]
    assert found[2:] == [*head.cls_convs, *head.reg_convs]
