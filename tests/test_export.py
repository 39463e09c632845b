"""An exported student needs nothing of kd_dense, and its ONNX graph computes what it computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from kd_dense.errors import SetupError
from kd_dense.export import plain_config, read_plain, write_plain
from kd_dense.hosts import build_model, read_model_config
from tests.helpers.models import distiller, gfl
from tests.helpers.processes import run
from tests.helpers.segmentation import segmentor
from tests.helpers.two_stage import faster_rcnn

ROOT = Path(__file__).parents[1]
CLASSES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')

# runs where importing kd_dense is an error
WITHOUT_US = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'kd_dense':
            raise AssertionError(f'{name} was imported')
sys.meta_path.insert(0, Refuse())
sys.path[:] = [path for path in sys.path if path not in ('', sys.argv[1])]
import torch
from mmengine.config import Config
from mmengine.runner import Runner
config, weights, image, scope = sys.argv[2:6]
if scope == 'mmdet':
    from mmdet.apis import inference_detector, init_detector
    model = init_detector(config, weights, device='cpu')
    found = inference_detector(model, image).pred_instances
    result = [found.scores.tolist(), found.bboxes.tolist(), found.labels.tolist()]
else:
    from mmseg.apis import inference_model, init_model
    model = init_model(config, weights, device='cpu')
    result = inference_model(model, image).pred_sem_seg.data[0].tolist()
state = torch.load(weights, weights_only=True)['state_dict']
model.load_state_dict(state, strict=True)
cfg = Config.fromfile(config)
cfg.work_dir, cfg.load_from = sys.argv[6], weights
metrics = Runner.from_cfg(cfg).test()
assert not [name for name in sys.modules if name.startswith('kd_dense')]
print('RESULT' + json.dumps([result, metrics, model.dataset_meta['classes']], default=float))
"""


def run_without_us(folder: Path, image: Path, scope: str) -> tuple:
    """Inference and test of an exported student by mmdet or mmseg alone."""
    paths = (folder / 'student.py', folder / 'student.pth', image, scope, folder / 'work')
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_US, str(ROOT), *map(str, paths)],
        cwd=folder,
        env=environment | dict(OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith('RESULT'))
    return json.loads(line.removeprefix('RESULT'))


def spread(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights so large that the predictions differ from place to place."""
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.1 if 'head' in name else 0.05)
        elif name.endswith('.bias') and ('cls' in name or 'rpn' in name):
            nn.init.zeros_(weight)
    if hasattr(model, 'decode_head'):  # batch norms that spread their channels
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train().decode_head(model.extract_feat(torch.randn(4, 3, 64, 64)))
    return model.eval()


def digits_config(root: Path, name: str = 'digits/ld_gfl_r18-quarter_digits.py', **model) -> Config:
    """A shipped config of digits, with another model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('DIGITS_ROOT', str(root))
        patch.setenv('DIGITS_SEG_ROOT', str(root))
        config = Config.fromfile(ROOT / 'configs' / name)
    if model:
        config.model = model
    return config


def save(config: Config, folder: Path, **meta) -> Path:
    """A checkpoint of the student in a config, as a distiller writes it."""
    model = spread(build_model(read_model_config(config.to_dict(), 'student')))
    path = folder / 'iter_20.pth'
    state = {f'student.{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state, meta=meta), path)
    return path


@pytest.fixture(scope='module')
def detector(tmp_path_factory, digits_root):
    """Config and checkpoint of a small distilled GFL whose teacher is gone, and its log."""
    folder = tmp_path_factory.mktemp('detector')
    student = gfl(num_classes=10)
    student.pop('_scope_')
    model = distiller(student=student, teacher=dict(config='gone.py', checkpoint='gone.pth'))
    config = digits_config(digits_root, **model)
    checkpoint = save(config, folder, iter=20, epoch=0, dataset_meta=dict(classes=CLASSES))
    log = folder / '20260101' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    lines = [dict(loss=2.0, step=10, iter=10), {'coco/bbox_mAP': 0.1, 'time': 1.0, 'step': 10}]
    lines += [dict(loss=1.0, step=20, iter=20), {'coco/bbox_mAP': 0.2, 'step': 0}]
    log.write_text('\n'.join(map(json.dumps, lines)))
    return config, checkpoint


@pytest.fixture(scope='module')
def segmenter(tmp_path_factory, digits_root):
    """Config and checkpoint of a small distilled PSPNet."""
    folder = tmp_path_factory.mktemp('segmentor')
    student = segmentor(classes=11)
    student.pop('_scope_')
    student['data_preprocessor'].pop('size_divisor')
    model = dict(
        type='kd_dense.Distiller',
        student=student,
        teacher=dict(config='gone.py', checkpoint='gone.pth'),
        losses=dict(pixel=dict(type='kd_dense.PixelWise', weight=2.0)),
    )
    config = digits_config(
        digits_root, 'digits/structured_pspnet_r18-quarter_digits-seg.py', **model
    )
    return config, save(config, folder, iter=20)


def first_image(root: Path) -> Path:
    return sorted((root / 'VOC2007' / 'JPEGImages').glob('val_*'))[0]


def test_mmdet_alone_runs_and_tests_the_exported_detector(detector, tmp_path, digits_root):
    from mmdet.apis import inference_detector, init_detector

    plain = read_plain(detector[0], str(detector[1]), dict(config='x.py'))
    write_plain(plain, tmp_path)
    image = first_image(digits_root)
    result, metrics, classes = run_without_us(tmp_path, image, 'mmdet')
    assert tuple(classes) == CLASSES
    assert len(result[0]) > 3 and 'coco/bbox_mAP' in metrics
    model = init_detector(plain.config, str(tmp_path / 'student.pth'), device='cpu')
    model.load_state_dict(plain.model.state_dict())
    expected = inference_detector(model, str(image)).pred_instances
    assert result[0] == pytest.approx(expected.scores.tolist(), rel=1e-4)  # other threads there
    assert sorted(result[2]) == sorted(expected.labels.tolist())


def test_mmseg_alone_runs_and_tests_the_exported_segmentor(segmenter, tmp_path, digits_root):
    from mmseg.apis import inference_model, init_model

    plain = read_plain(segmenter[0], str(segmenter[1]))
    assert plain.dataset_meta['classes'] == ('background', *CLASSES)  # the checkpoint had none
    assert plain.dataset_meta['palette'][1] == [230, 25, 75]
    write_plain(plain, tmp_path)
    result, metrics, _ = run_without_us(tmp_path, first_image(digits_root), 'mmseg')
    assert len(np.unique(result)) > 1 and 'mIoU' in metrics
    model = init_model(plain.config, device='cpu')
    model.load_state_dict(plain.model.state_dict())
    expected = inference_model(model, str(first_image(digits_root))).pred_sem_seg.data[0]
    differing = (np.array(result) != expected.numpy()).mean()
    assert differing < 0.001  # other threads there, so ties may fall otherwise


def test_the_checkpoint_says_how_it_was_made(detector):
    meta = read_plain(detector[0], str(detector[1]), dict(command='python x')).meta
    made = meta['made_by']
    assert made['command'] == 'python x' and made['distilled']
    assert made['metrics'] == {'coco/bbox_mAP': 0.2} and made['metrics_at'] == 20
    assert made['teacher'] == dict(config='gone.py', checkpoint='gone.pth')
    assert made['losses']['ld']['type'] == 'kd_dense.LocalizationDistillation'
    assert meta['kd_dense_version'] and 'kd_dense' not in meta['cfg']


def test_a_checkpoint_without_a_log_says_so(segmenter):
    made = read_plain(segmenter[0], str(segmenter[1])).meta['made_by']
    assert 'metrics' not in made and 'no log' in made['metrics_missing']


def test_a_checkpoint_between_validations_has_no_metrics(detector, tmp_path):
    config, source = detector
    moved = tmp_path / 'iter_15.pth'
    checkpoint = torch.load(source, weights_only=False)
    checkpoint['meta']['iter'] = 15
    torch.save(checkpoint, moved)
    (tmp_path / '20260101').symlink_to(source.parent / '20260101')
    made = read_plain(config, str(moved)).meta['made_by']
    assert made['metrics_missing'] == 'the log tells of no validation at 15'


def test_a_plain_config_and_checkpoint_stay_what_they_are(detector, tmp_path):
    plain = read_plain(detector[0], str(detector[1]))
    weights, config = write_plain(plain, tmp_path)
    again = read_plain(Config.fromfile(config), str(weights))
    assert again.config.pretty_text == plain.config.pretty_text
    assert not again.meta['made_by']['distilled']
    state, expected = again.model.state_dict(), plain.model.state_dict()
    assert state.keys() == expected.keys() and all(state[k].equal(expected[k]) for k in state)


@pytest.mark.parametrize('name', sorted(p.name for p in (ROOT / 'configs').glob('*.py')))
def test_no_shipped_config_leaves_anything_of_ours_in_the_plain_one(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    plain = plain_config(Config.fromfile(ROOT / 'configs' / name))
    text = plain.pretty_text
    assert 'kd_dense' not in text
    assert Config.fromstring(text, '.py').model == plain.model


def test_a_config_that_cannot_do_without_us_says_where(digits_root):
    config = digits_config(digits_root)
    config.model.student.backbone.type = 'kd_dense.NoSuchBackbone'
    with pytest.raises(SetupError, match=r'model\.backbone\.type=.*--cfg-options'):
        plain_config(config)


def test_no_class_names_anywhere(segmenter):
    config = Config(segmenter[0].to_dict())
    config.test_dataloader.dataset.pop('metainfo')
    config.test_dataloader.dataset.test_mode = False
    with pytest.raises(SetupError, match='names the classes'):
        read_plain(config, str(segmenter[1]))


# ---- ONNX -----------------------------------------------------------------------------------


def plain_of(model: dict, root: Path, folder: Path, **changes):
    """An exported student of another architecture, on digits."""
    model = {key: value for key, value in model.items() if key != '_scope_'} | changes
    config = digits_config(root, 'digits/gfl_r18-quarter_digits.py', **model)
    config.test_dataloader.dataset.metainfo = dict(classes=('a', 'b', 'c'))
    return read_plain(config, str(save(config, folder, dataset_meta=dict(classes=('a', 'b', 'c')))))


def exported(plain, folder: Path, size=(72, 100), normalize: bool = True, tolerance: float = 1e-4):
    """Written and compared; returns the graph, the file, the example and the differences."""
    pytest.importorskip('onnxruntime')
    from kd_dense.export.onnx.compare import compare, find_example
    from kd_dense.export.onnx.write import write_onnx

    example, _ = find_example(plain, None, size)
    path = folder / 'student.onnx'
    graph = write_onnx(plain, path, example, normalize)
    return graph, path, example, compare(plain, graph, path, example, tolerance)


def other_head(head: dict) -> dict:
    """The small GFL with another head."""
    model = gfl()
    model.update(type='SingleStageDetector', bbox_head=head)
    return model


COMMON = dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
ANCHORS = dict(
    type='AnchorGenerator', ratios=[0.5, 1.0], octave_base_scale=4, scales_per_octave=1,
    strides=[8, 16, 32],
)  # fmt: skip
HEADS = dict(
    gfl=gfl()['bbox_head'],
    retina=dict(type='RetinaHead', anchor_generator=ANCHORS, **COMMON),
    softmax=dict(
        type='RetinaHead',
        anchor_generator=ANCHORS,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
        **COMMON,
    ),
    atss=dict(
        type='ATSSHead',
        anchor_generator=ANCHORS | dict(ratios=[1.0]),
        norm_cfg=dict(type='GN', num_groups=4),
        **COMMON,
    ),
    fcos=dict(type='FCOSHead', strides=[8, 16, 32], norm_cfg=None, **COMMON),
    fcos_in_strides=dict(
        type='FCOSHead', strides=[8, 16, 32], norm_cfg=None, norm_on_bbox=True, **COMMON
    ),
)


@pytest.mark.parametrize('name', HEADS)
def test_graphs_of_dense_heads_agree_with_mmdets_own_detections(name, digits_root, tmp_path):
    plain = plain_of(other_head(HEADS[name]), digits_root, tmp_path)
    _, _, example, found = exported(plain, tmp_path)
    assert all(difference.fine for difference in found)
    assert len(found) == 9 and 'val_000000' in example['data_samples'][0].img_path
    lost = next(d for d in found if 'not found again' in d.what)
    assert int(lost.what.split()[1]) > 3  # there was something to find


@pytest.mark.parametrize('order', ['RGB', 'BGR'])
@pytest.mark.parametrize('normalize', [True, False])
def test_two_stage_graphs_agree_with_mmdets_own_detections(order, normalize, digits_root, tmp_path):
    model = faster_rcnn()
    model['data_preprocessor']['bgr_to_rgb'] = order == 'RGB'
    plain = plain_of(model, digits_root, tmp_path)
    graph, path, _, found = exported(plain, tmp_path, normalize=normalize)
    assert 'one image at a time' in graph.missing
    assert int(found[0].what.split()[1]) > 3
    facts = facts_of(path)
    assert facts['channel_order'] == order
    assert facts['normalization'] == ('inside' if normalize else 'outside')


def facts_of(path: Path) -> dict:
    import onnxruntime

    from kd_dense.export.onnx.predict_onnx import read_facts

    return read_facts(onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider']))


def test_graphs_of_segmentors_return_logits_at_the_size_of_the_input(segmenter, tmp_path):
    plain = read_plain(segmenter[0], str(segmenter[1]))
    graph, _, _, found = exported(plain, tmp_path, size=(70, 90))
    assert '(1, 11, 70, 90)' in found[0].what and '(1, 11, 35, 67)' in found[1].what
    assert graph.missing == ''


def test_segmentors_padded_in_testing_are_cropped(segmenter, tmp_path):
    config = Config(segmenter[0].to_dict())
    config.model.student.data_preprocessor.test_cfg = dict(size_divisor=32)
    plain = read_plain(config, str(segmenter[1]))
    graph, _, _, found = exported(plain, tmp_path, size=(70, 90))
    assert graph.divisor == 32 and '(1, 11, 70, 90)' in found[0].what


def test_the_file_says_what_its_user_has_to_know(detector, tmp_path):
    plain = read_plain(detector[0], str(detector[1]), dict(config='distilled.py'))
    _, path, _, _ = exported(plain, tmp_path)
    facts = facts_of(path)
    assert facts['classes'] == list(CLASSES)
    assert facts['mean'] == pytest.approx([123.675, 116.28, 103.53])
    assert facts['pad_divisor'] == 32 and facts['score_threshold'] == 0.05
    assert facts['nms_iou_threshold'] == 0.6 and facts['max_per_image'] == 20
    assert facts['resize'] == dict(scale=[160, 160], keep_ratio=True)
    assert facts['made_by']['metrics'] == {'coco/bbox_mAP': 0.2}
    assert 'before non-maximum suppression' in facts['computes']
    assert facts['takes'].startswith('RGB images from 0 to 255')


def test_heads_that_are_not_known_give_their_raw_maps(digits_root, tmp_path, monkeypatch):
    from kd_dense.export.onnx import graphs

    monkeypatch.setattr(graphs, 'can_decode', lambda head: False)
    plain = plain_of(gfl(), digits_root, tmp_path)
    graph, path, _, found = exported(plain, tmp_path)
    assert list(graph.outputs)[:2] == ['maps_0_level_0', 'maps_0_level_1']
    assert len(found) == 18 and 'left to you' in facts_of(path)['missing']


def test_detectors_with_another_second_stage_give_features_and_proposal_maps(digits_root, tmp_path):
    model = faster_rcnn()
    extractor = model['roi_head']['bbox_roi_extractor']
    extractor.update(type='GenericRoIExtractor', aggregation='sum')
    extractor.pop('finest_scale')
    plain = plain_of(model, digits_root, tmp_path)
    graph, path, _, _ = exported(plain, tmp_path)
    assert list(graph.outputs)[::3] == [
        'features_level_0', 'rpn_classes_level_0', 'rpn_boxes_level_0',
    ]  # fmt: skip
    assert 'second stage' in facts_of(path)['missing']


def test_a_file_that_computes_something_else_is_refused(detector, tmp_path):
    from kd_dense.export.onnx.compare import compare

    plain = read_plain(detector[0], str(detector[1]))
    graph, path, example, _ = exported(plain, tmp_path)
    spread(graph.model, seed=1)
    with pytest.raises(SetupError, match=r'does not compute what the model .* --tolerance'):
        compare(plain, graph, path, example, 1e-4)


def test_other_models_are_refused_in_a_sentence():
    from kd_dense.export.onnx.graphs import graph_of

    with pytest.raises(SetupError, match='does not know Linear'):
        graph_of(nn.Linear(1, 1))


@pytest.mark.parametrize('size', [1, (2, 3), (6, None)])
@pytest.mark.parametrize('shape', [(1, 2, 12, 18), (2, 1, 7, 11), (1, 1, 5, 4)])
def test_adaptive_pools_as_products_are_torchs(size, shape):
    from kd_dense.export.onnx.write import for_any_size

    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(size))
    expected = pool(x)
    assert torch.allclose(for_any_size(pool)(x), expected, atol=1e-12)


def test_suppression_is_torchvisions():
    from torchvision.ops import nms

    from kd_dense.export.onnx.predict_onnx import suppress

    torch.manual_seed(0)
    low = torch.rand(60, 2) * 40
    boxes = torch.cat([low, low + torch.rand(60, 2) * 30], dim=1)
    scores = torch.rand(60)
    assert suppress(boxes.numpy(), scores.numpy(), 0.4) == nms(boxes, scores, 0.4).tolist()


# ---- the tool --------------------------------------------------------------------------------


def tool(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return run(*arguments, **environment)


def test_the_tool_writes_everything_and_the_file_predicts(detector, tmp_path, digits_root):
    pytest.importorskip('onnxruntime')
    detector[0].dump(tmp_path / 'config.py')
    out = tmp_path / 'out'
    done = tool('tools/export.py', tmp_path / 'config.py', detector[1], '--onnx', '--out', out)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in out.iterdir()} == {
        'student.pth', 'student.py', 'student.onnx', 'predict_onnx.py',
    }  # fmt: skip
    assert 'metrics: coco/bbox_mAP 0.2' in done.stdout
    assert 'boxes on two images' in done.stdout and 'TOO LARGE' not in done.stdout
    image, drawn = first_image(digits_root), tmp_path / 'drawn.png'
    script = (out / 'predict_onnx.py', out / 'student.onnx', image, '--out', drawn)
    done = tool(*script, '--score-thr', 0.1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in CLASSES and drawn.read_bytes()[:4] == b'\x89PNG'


def test_a_missing_onnx_is_named(detector, tmp_path):
    (tmp_path / 'onnx.py').write_text("raise ImportError('No module named onnx')")
    detector[0].dump(tmp_path / 'config.py')
    done = tool(
        'tools/export.py', tmp_path / 'config.py', detector[1], '--onnx', '--out', tmp_path / 'out',
        PYTHONPATH=f'{tmp_path}:{ROOT}',
    )  # fmt: skip
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert "pip install 'kd_dense[export]'" in done.stderr.splitlines()[-1]
    assert not (tmp_path / 'out').exists()


def test_a_missing_image_is_named(detector, tmp_path):
    detector[0].dump(tmp_path / 'config.py')
    arguments = ('--onnx', '--out', tmp_path / 'out', '--image', 'nowhere.jpg')
    done = tool('tools/export.py', tmp_path / 'config.py', detector[1], *arguments)
    assert done.returncode == 1 and 'There is no image nowhere.jpg' in done.stderr
