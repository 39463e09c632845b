"""Network augmentation: the student as the corner of wider networks."""

import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.peers.wider import outputs
from tests.helpers import pairs, segmentation, two_stage
from tests.helpers.models import gfl, gradients, raw_batch

OPTIMIZER = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9),
    clip_grad=dict(max_norm=0.1),
)
LIVE = dict(OPTIMIZER, constructor='kd_dense.LiveOptimWrapperConstructor')
CHANGES = dict(
    backbone=dict(base_channels='x', stem_channels='x'), neck=dict(in_channels='x')
)  # what is wider of a detector


def wider(student=None, seed=0, **more):
    torch.manual_seed(seed)
    student = student or gfl()
    peer = dict(type='kd_dense.Wider', model=student, changes=CHANGES, widths=(1.5, 2), **more)
    model = MODELS.build(
        copy.deepcopy(dict(type='kd_dense.Distiller', student=student, peers=dict(wide=peer)))
    )
    model.init_weights()
    return model.train()


@pytest.mark.parametrize('host', ['gfl', 'retina', 'fcos', 'faster_rcnn'])
def test_with_extra_weights_of_0_each_width_computes_what_the_student_does(host):
    hosts = dict(gfl=gfl, retina=pairs.retina, fcos=pairs.fcos, faster_rcnn=two_stage.faster_rcnn)
    model = wider(hosts[host]())
    wide = model.peers['wide']
    with torch.no_grad():
        for extra in wide.extras.values():
            extra.zero_()
    image = torch.rand(1, 3, 96, 96)
    own = outputs(model.student, image)
    assert any(name.startswith('output') for name in own)
    for built in wide._built:
        weights = wide.weights(built)
        assert sum(w.numel() for w in weights.values()) > sum(
            p.numel() for p in model.student.parameters()
        )
        with torch.no_grad():
            for name, value in weights.items():
                built.get_parameter(name).copy_(value)
        theirs = outputs(built, image)
        for name, value in own.items():
            corner = theirs[name][tuple(slice(size) for size in value.shape)]
            torch.testing.assert_close(corner, value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_gradient_is_the_sum_of_both_passes_and_that_of_an_explicit_wide_model():
    model = wider(weight=0.5)
    wide = model.peers['wide']
    explicit = copy.deepcopy(wide._built[0]).requires_grad_(True).train()
    wide._built = wide._built[:1]  # one width: it is known which is drawn
    with torch.no_grad():
        for name, value in wide.weights(explicit).items():
            explicit.get_parameter(name).copy_(value)
    alone = copy.deepcopy(model.student)
    data = model.data_preprocessor(raw_batch(), True)
    model.parse_losses(model(**copy.deepcopy(data), mode='loss'))[0].backward()
    for each, weight in ((alone, 1), (explicit, 0.5)):
        (model.parse_losses(each(**copy.deepcopy(data), mode='loss'))[0] * weight).backward()
    for name, own in alone.named_parameters():
        other = explicit.get_parameter(name).grad
        corner = other[tuple(slice(size) for size in own.shape)]
        wanted = own.grad + corner
        torch.testing.assert_close(
            gradients(model.student)[name], wanted, rtol=1e-3, atol=1e-5, msg=name
        )
    assert all(extra.grad is not None for extra in wide.extras.values())
    assert any(extra.grad.any() for extra in wide.extras.values())


def test_batch_norms_are_those_of_training_alone_and_so_is_all_with_a_weight_of_0():
    torch.manual_seed(0)
    plain = build_model(read_model_config(gfl(), 'student'))
    plain.init_weights()
    plain.train()
    for weight in (1.0, 0.0):
        model = wider(weight=weight)
        alone = copy.deepcopy(plain)
        steps = build_optim_wrapper(alone, copy.deepcopy(OPTIMIZER))
        live = build_optim_wrapper(model, copy.deepcopy(LIVE))
        for seed in range(1 if weight else 3):
            alone.train_step(raw_batch(seed=seed), steps)
            model.train_step(raw_batch(seed=seed), live)
        for name, buffer in alone.named_buffers():
            assert torch.equal(buffer, dict(model.student.named_buffers())[name]), name
        same = [
            torch.equal(value, model.student.state_dict()[name])
            for name, value in alone.state_dict().items()
        ]
        assert all(same) == (weight == 0)


def test_it_saves_extra_weights_and_draws_the_same_widths_again():
    model = wider()
    again = wider(seed=5)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    drawn = []
    for each in (model, again):
        live = build_optim_wrapper(each, copy.deepcopy(LIVE))
        used = []
        for built in each.peers['wide']._built:
            built.backbone.register_forward_hook(
                lambda *_, used=used, n=built.backbone.base_channels: used.append(n)
            )
        for seed in range(4):
            each.train_step(raw_batch(seed=seed), live)
        drawn.append(used)
    assert drawn[0] == drawn[1] and set(drawn[0]) == {12, 16}
    names = [name for name in model.state_dict() if 'wide' in name]
    assert any('extras' in name for name in names)
    assert all('extras' in n or n.split('.')[-1] in ('origin', 'drawn') for n in names)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_wide_pass_may_teach():
    soft = dict(type='kd_dense.SoftTargets', teacher='wide', region='main')
    torch.manual_seed(0)
    peer = dict(type='kd_dense.Wider', model=gfl(), changes=CHANGES, widths=(2,))
    model = MODELS.build(dict(
        type='kd_dense.Distiller', student=gfl(), peers=dict(wide=peer), losses=dict(soft=soft)
    ))  # fmt: skip
    model.init_weights()
    logs = model.train().train_step(raw_batch(), build_optim_wrapper(model, copy.deepcopy(LIVE)))
    assert logs['loss_kd_soft'] > 0 and logs['wide.loss_cls'] > 0


SEGMENTOR = dict(
    backbone=dict(base_channels='x', stem_channels='x'),
    decode_head=dict(in_channels='x'),
    auxiliary_head=dict(in_channels='x'),
)


def test_a_layer_that_reads_a_concatenation_is_named_and_pieces_declare_it():
    def build(**more):
        peer = dict(type='kd_dense.Wider', model=segmentation.segmentor(), changes=SEGMENTOR,
                    widths=(2,), **more)  # fmt: skip
        return MODELS.build(dict(
            type='kd_dense.Distiller', student=segmentation.segmentor(), peers=dict(wide=peer)
        ))  # fmt: skip

    with pytest.raises(SetupError, match=r'does not contain the student from .decode_head.bottlen'):
        build()
    sizes = segmentation.segmentor()['decode_head']
    base, thin = sizes['in_channels'], sizes['channels']
    pools = len(sizes.get('pool_scales', (1, 2, 3, 6)))
    model = build(pieces={'decode_head.bottleneck.conv': (base, *[thin] * pools)})
    model.init_weights()
    logs = model.train().train_step(
        segmentation.raw_batch(), build_optim_wrapper(model, copy.deepcopy(LIVE))
    )
    assert logs['wide.decode.loss_ce'] > 0


WRONG = {
    'they are numbers above 1': dict(widths=(1, 2)),
    'makes nothing wider': dict(changes=dict(backbone=dict(base_channels=16))),
    "is 'x', and the student has None there": dict(changes=dict(backbone=dict(base='x'))),
}


@pytest.mark.parametrize('words', WRONG)
def test_what_is_wrong_is_said(words):
    peer = dict(dict(type='kd_dense.Wider', model=gfl(), changes=CHANGES), **WRONG[words])
    with pytest.raises(SetupError) as told:
        MODELS.build(dict(type='kd_dense.Distiller', student=gfl(), peers=dict(wide=peer)))
    assert words in str(told.value)
