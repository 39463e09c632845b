"""What a view shows of a segmentor: what the model itself computes, once."""

import pytest
import torch
import torch.nn.functional as F

from kd_dense import MODELS, FeatureImitation, PairWise, PixelWise
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import Batch, FeatureView, SegmentationView, view_class
from tests.helpers.segmentation import build, distiller, pair, raw_batch, segmentor, views


def deeplab() -> dict:
    """DeepLabV3+ in small."""
    config = segmentor()
    config['decode_head'] |= dict(
        type='DepthwiseSeparableASPPHead', dilations=(1, 6), c1_in_channels=8, c1_channels=4
    )
    del config['decode_head']['pool_scales']
    return config


def segformer() -> dict:
    """SegFormer in small."""
    config = segmentor(auxiliary=False)
    config['backbone'] = dict(
        type='MixVisionTransformer', in_channels=3, embed_dims=8, num_stages=4,
        num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], patch_sizes=[7, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1], out_indices=(0, 1, 2, 3), mlp_ratio=2,
    )  # fmt: skip
    config['decode_head'] |= dict(
        type='SegformerHead', in_channels=[8, 8, 8, 8], in_index=[0, 1, 2, 3]
    )
    del config['decode_head']['pool_scales']
    return config


HOSTS = {'pspnet': segmentor, 'deeplabv3+': deeplab, 'segformer': segformer}


@pytest.mark.parametrize('host', HOSTS)
def test_what_is_noted_is_what_the_model_computes(host):
    model = build(HOSTS[host]()).eval()  # eval: the second pass sees the same batch norms
    assert view_class(model) is SegmentationView
    ours, _ = views(model, build(HOSTS[host](), 1))
    assert {'features', '_decoded', '_classifier_input', 'own_losses'} <= set(vars(ours))
    noted = {name: getattr(ours, name) for name in ('features', 'seg_logits', 'head_features')}
    again = SegmentationView(model, ours.batch)
    torch.testing.assert_close(again.features, noted['features'])
    torch.testing.assert_close(again.seg_logits, noted['seg_logits'])
    torch.testing.assert_close(again.head_features, noted['head_features'])
    torch.testing.assert_close(again.aux_logits, ours.aux_logits)
    torch.testing.assert_close(model._forward(ours.batch.images), again.seg_logits)
    own = model.loss(ours.batch.images, ours.batch.samples)
    torch.testing.assert_close(ours.task_loss(), own['decode.loss_ce'])
    assert len(ours.aux_logits) == (0 if host == 'segformer' else 1)


@pytest.mark.parametrize('host', HOSTS)
def test_a_teacher_shows_what_the_plain_model_computes(host):
    student = build(HOSTS[host](), 0)
    teacher = FrozenTeacher(HOSTS[host](), untrained=True)
    torch.manual_seed(3)
    for parameter in teacher.model.parameters():  # batch norms that do something
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    plain = build(HOSTS[host](), 1).eval()
    plain.load_state_dict(teacher.model.state_dict())
    teacher.model.init_weights = lambda: None
    teacher.load(student)
    data = student.data_preprocessor(raw_batch(), True)
    batch = Batch(data['inputs'], data['data_samples'])
    with torch.no_grad():
        expected = plain._forward(batch.images)
    torch.testing.assert_close(teacher.view(batch).seg_logits, expected, rtol=1e-3, atol=1e-4)


def test_labels_and_valid_pixels_leave_out_what_is_ignored_and_padding():
    ours, _ = views(*pair())
    assert ours.labels.shape == (2, 64, 64)
    valid = ours.valid_pixels
    assert valid[0, 2:].all() and not valid[:, :2].any()  # two rows are ignored
    assert not valid[1, 40:].any() and not valid[1, :, 56:].any()  # the second image is 40 x 56
    assert valid[1, 2:40, :56].all()
    small = ours.valid_at((8, 8))
    assert small[1, :5, :7].all() and small[1].sum() == 35 and small[0].all()
    assert ours.positions(ours.valid)[1].equal(ours.valid_at(ours.level_sizes[1]))


def test_what_has_to_agree_is_described():
    info = SegmentationView.describe(build(segmentor(stride=16)))
    assert info.strides == (4, 8, 16, 16) and info.num_classes == 3
    assert (info.family, info.activation, info.head) == ('segmentation', 'softmax', 'PSPHead')


def test_stages_have_names():
    ours, _ = views(*pair())
    assert ours.stage('logits') is ours.seg_logits and ours.stage('head') is ours.head_features
    assert ours.stage(-1) is ours.features[3]
    with pytest.raises(SetupError, match="no stage 'neck'; it has 4, 0 to 3"):
        ours.stage('neck')


def test_hints_work_on_the_stages_of_segmentors():
    ours, theirs = views(*pair())
    value = FeatureImitation(adapter='none')(ours, theirs)
    total, count = 0.0, 0
    for s, t in zip(ours.features, theirs.features, strict=True):
        mask = ours.valid_at(s.shape[-2:])
        total += (s - t).square().sum(1)[mask].sum() / s.shape[1]
        count += mask.sum()
    torch.testing.assert_close(value, total / count)


def test_another_number_of_classes_is_refused():
    config = distiller(teacher=segmentor(classes=4))
    with pytest.raises(SetupError, match='number of classes: the teacher has 4, the student 3'):
        MODELS.build(config).load_teacher()


def test_one_sigmoid_channel_is_refused():
    binary = segmentor(classes=2, out_channels=1, threshold=0.3)
    binary['decode_head']['loss_decode'] = dict(type='CrossEntropyLoss', use_sigmoid=True)
    with pytest.raises(SetupError, match=r'one channel for two classes; set `decode_head\.out_ch'):
        MODELS.build(distiller(student=binary, teacher=binary)).load_teacher()


def test_a_head_that_returns_several_maps_is_refused_in_a_sentence():
    model = build(segmentor())
    model.decode_head.forward = lambda features: (features[0], features[1])
    batch = Batch(torch.zeros(1, 3, 64, 64), [])
    with pytest.raises(SetupError, match='PSPHead returns tuple instead of one map of logits'):
        _ = SegmentationView(model, batch).seg_logits


def cascade(*heads: dict) -> dict:
    """A cascade of heads."""
    config = segmentor(auxiliary=False)
    return config | dict(
        type='CascadeEncoderDecoder', num_stages=len(heads), decode_head=list(heads)
    )


def ocr() -> dict:
    """An OCRNet in small."""
    head = {k: v for k, v in segmentor()['decode_head'].items() if k != 'pool_scales'}
    first = segmentor()['auxiliary_head']
    return cascade(first, head | dict(type='OCRHead', channels=16, ocr_channels=8))


def test_a_cascade_of_heads_shows_the_last_ones_logits():
    model = build_model(read_model_config(ocr(), 'student')).eval()
    assert view_class(model) is SegmentationView
    ours, theirs = views(model, build_model(read_model_config(ocr(), 'student')).eval())
    metas = [sample.metainfo for sample in ours.batch.samples]
    whole = model.encode_decode(ours.batch.images, metas)
    resized = F.interpolate(ours.seg_logits, whole.shape[-2:], mode='bilinear')
    torch.testing.assert_close(resized, whole)
    again = SegmentationView(model, ours.batch)
    torch.testing.assert_close(again.seg_logits, ours.seg_logits)
    torch.testing.assert_close(again.head_features, ours.head_features)
    assert torch.equal(ours.task_loss(), ours.own_losses['decode_1.loss_ce'])
    for loss in (PixelWise(), PairWise()):
        assert loss(ours, theirs) > 0


def test_of_heads_that_do_not_read_each_other_the_features_are_seen():
    head = segmentor()['decode_head']
    model = build_model(read_model_config(cascade(head, dict(head)), 'student'))
    assert view_class(model) is FeatureView


def test_a_teacher_that_is_not_read_does_not_run(monkeypatch):
    ours, theirs = views(*pair())
    monkeypatch.setattr(theirs.model, 'extract_feat', lambda _: pytest.fail('the teacher ran'))
    assert F.relu(ours.seg_logits).sum() >= 0 and 'features' not in vars(theirs)
