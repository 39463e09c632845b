"""Teachers of other or fewer classes: specialists."""

import copy

import pytest
import torch
from mmengine.logging import MessageHub

from kd_dense import MODELS, FrozenTeacher
from kd_dense.class_map import map_classes
from kd_dense.errors import SetupError
from tests.helpers import pairs, segmentation, two_stage
from tests.helpers.models import distiller, gfl, raw_batch

OURS = ('cat', 'dog', 'bird')


def test_names_are_found_in_any_order_and_under_other_names():
    found = map_classes(OURS, ('bird', 'hound', 'fish'), {'hound': 'dog'})
    assert found.names == ('dog', 'bird') and found.ours == (1, 2) and found.theirs == (1, 0)
    labels = torch.tensor([0, 1, 2, 3])
    assert found.known(labels).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ('theirs', 'renamed', 'words'),
    [
        (('fish',), {}, 'knows none of the classes'),
        (('hound',), {'hond': 'dog'}, "names 'hond', which the teacher does not know. Did you"),
        (('hound',), {'hound': 'dogg'}, "'dogg', which the training set does not know. Did you"),
    ],
)
def test_names_that_are_not_there_are_told(theirs, renamed, words):
    with pytest.raises(SetupError) as told:
        map_classes(OURS, theirs, renamed)
    assert words in str(told.value)


def test_a_softmax_is_grouped_as_by_hand():
    # four classes and a background; the teacher knows the first and the third, and a background
    found = map_classes(('a', 'b', 'c', 'd'), ('c', 'a'))
    student = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    teacher = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    s, t = (each.softmax(-1) for each in found.grouped(student, teacher))
    p, q = student.softmax(-1), teacher.softmax(-1)
    torch.testing.assert_close(s, torch.stack([p[:, 0], p[:, 2], p[:, 1] + p[:, 3] + p[:, 4]], 1))
    torch.testing.assert_close(t, torch.stack([q[:, 1], q[:, 0], q[:, 2]], 1))


def test_a_class_called_background_stands_for_the_rest_of_a_segmentor():
    found = map_classes(('background', 'a', 'b'), ('background', 'b'))
    student, teacher = torch.randn(4, 3), torch.randn(4, 2)
    s, t = (each.softmax(-1) for each in found.grouped(student, teacher))
    p = student.softmax(-1)
    torch.testing.assert_close(s, torch.stack([p[:, 2], p[:, 0] + p[:, 1]], 1))
    torch.testing.assert_close(t, teacher.softmax(-1).flip(1))
    with pytest.raises(SetupError, match='a class that stands for the others'):
        map_classes(('a', 'b'), ('b',)).grouped(torch.randn(4, 2), torch.randn(4, 1))


# -- in a distillation ---------------------------------------------------------------------------


@pytest.fixture
def names():
    hub = MessageHub.get_current_instance()
    hub.update_info('dataset_meta', dict(classes=OURS))
    yield OURS
    hub.runtime_info.pop('dataset_meta')


def taught_by(theirs, teacher, losses, student=None, classes='by name'):
    torch.manual_seed(0)
    parts = dict(config=teacher, untrained=True, fast=False, classes=classes)
    model = MODELS.build(
        distiller(student=student or gfl(), teacher=parts, losses=copy.deepcopy(losses))
    )
    model.teacher.classes = theirs
    model.init_weights()
    return model.train()


SOFT = dict(soft=dict(type='kd_dense.SoftTargets', region='main', temperature=2))


def value(model, batch=None):
    logs = model(**model.data_preprocessor(batch or raw_batch(), True), mode='loss')
    return next(v for name, v in logs.items() if 'kd' in name)


def test_classes_in_another_order_give_the_same_loss(names):
    same = taught_by(OURS, gfl(channels=32), SOFT)
    other = taught_by(OURS[::-1], gfl(channels=32), SOFT)
    head, turned = (each.teacher.model.bbox_head.gfl_cls for each in (same, other))
    with torch.no_grad():
        turned.weight.copy_(head.weight.flip(0))
        turned.bias.copy_(head.bias.flip(0))
    torch.testing.assert_close(value(other), value(same))


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_only_shared_columns_and_their_positives_count(names, activation):
    soft = dict(soft=dict(SOFT['soft'], activation=activation))
    model = taught_by(('fish', 'bird', 'dog', 'cow'), gfl(channels=32, num_classes=4), soft)
    data = model.data_preprocessor(raw_batch(), True)
    batch = pairs.Batch(data['inputs'], data['data_samples'])
    student = pairs.noted(model.student, batch)
    teacher = model.teacher.view(batch, student)
    model.teacher.know_classes(OURS)
    teacher.class_map = model.teacher.class_map
    labels = student.assignment.labels
    mask = student.positives & student.valid & ((labels == 1) | (labels == 2))
    s = student.flat_cls_logits[mask][:, [1, 2]]
    t = teacher.flat_cls_logits[mask][:, [2, 1]]
    if activation == 'softmax':
        p, q = (s / 2).softmax(-1), (t / 2).softmax(-1)
        expected = 4 * (q * (q / p).log()).sum() / mask.sum()
    else:
        p, q = (s / 2).sigmoid(), (t / 2).sigmoid()
        kl = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
        expected = 4 * kl.sum() / mask.sum()
    assert mask.any()
    torch.testing.assert_close(
        model.losses['soft'](student, teacher), expected, rtol=1e-4, atol=1e-6
    )


def test_segmentors_are_taught_by_specialists():
    hub = MessageHub.get_current_instance()
    hub.update_info('dataset_meta', dict(classes=('background', 'disc', 'square')))
    try:
        model = taught_by(
            ('background', 'square'),
            segmentation.segmentor(width=16, classes=2),
            dict(pixel=dict(type='kd_dense.PixelWise')),
            student=segmentation.segmentor(),
        )
        assert float(value(model, segmentation.raw_batch()).detach()) > 0
    finally:
        hub.runtime_info.pop('dataset_meta')


def test_losses_that_count_classes_are_refused(names):
    losses = dict(soft=SOFT['soft'], other=dict(type='kd_dense.BinaryDistillation'))
    with pytest.raises(SetupError, match=r'losses.other: BinaryDistillation compares classes by'):
        taught_by(('bird',), gfl(channels=32, num_classes=1), losses)
    box = dict(ld=dict(type='kd_dense.LocalizationDistillation', region='main'))
    assert float(value(taught_by(('bird',), gfl(channels=32, num_classes=1), box)).detach()) >= 0


def test_without_names_it_says_whose_are_missing(names):
    model = taught_by(None, gfl(channels=32), SOFT)
    with pytest.raises(SetupError, match='the checkpoint an untrained teacher tells none'):
        value(model)
    MessageHub.get_current_instance().update_info('dataset_meta', dict())
    model = taught_by(OURS, gfl(channels=32), SOFT)
    with pytest.raises(SetupError, match='the training set tells none'):
        value(model)


@pytest.mark.parametrize('wrong', ['names', 3, True])
def test_another_choice_is_refused(wrong):
    with pytest.raises(SetupError, match="it is 'by name', or a dict"):
        FrozenTeacher(config=two_stage.faster_rcnn(), untrained=True, classes=wrong)
