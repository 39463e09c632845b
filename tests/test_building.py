"""What a config names wrongly is told in a sentence: losses, teachers, their arguments."""

import pytest

from kd_dense import MODELS
from kd_dense.errors import SetupError
from tests.helpers.models import distiller, gfl

LD = dict(type='kd_dense.LocalizationDistillation')


@pytest.mark.parametrize(
    ('loss', 'words'),
    [
        ('hello', r"losses\.a is 'hello'; it has to be a dict with `type`, one of `kd_dense\."),
        (dict(weight=1), r'losses\.a has no `type`: found .*misspelt in --cfg-options'),
        (
            dict(type='kd_dense.LocalizationDistilation'),
            r"no type 'kd_dense\.Loc.*Did you mean 'LocalizationDistillation'\?",
        ),
        (dict(type='kd_dense.Nope'), r"there is no type 'kd_dense\.Nope'\. Types are"),
        (dict(type='mmdet.CrossEntropyLoss'), r'CrossEntropyLoss, which is no distillation loss'),
        (dict(type='kd_dense.Distiller'), r'is a Distiller, which is no distillation loss'),
        (LD | dict(regin='main'), r"found `regin`\. Did you mean 'region'\?"),
        (dict(type='kd_dense.BoundedRegression'), r'of which it needs `part`; found nothing'),
        (LD | dict(weight=-1), r'weight of a LocalizationDistillation is -1; it must be a finite'),
        (LD | dict(weight=float('nan')), r'is nan; it must be'),
        (LD | dict(weight=float('inf')), r'is inf; it must be'),
        (LD | dict(weight='abc'), r"is 'abc'; it must be"),
        (LD | dict(weight=None), r'is None; it must be'),
    ],
)
def test_a_loss_that_cannot_be_built_is_told(loss, words):
    with pytest.raises(SetupError, match=words):
        MODELS.build(distiller(losses=dict(a=loss)))


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(same_classes='maybe'), r"teacher\.same_classes is 'maybe'; it is True or False"),
        (dict(fast='no'), r"teacher\.fast is 'no'"),
        (dict(checkpont='a.pth'), r"Did you mean 'checkpoint'\?"),
    ],
)
def test_a_teacher_that_cannot_be_built_is_told(changes, words):
    teacher = dict(config=gfl(), untrained=True) | changes
    with pytest.raises(SetupError, match=words):
        MODELS.build(distiller(teacher=teacher))


def test_one_class_and_softmax_is_refused_before_the_first_step():
    cls = dict(type='kd_dense.SoftTargets', region='main', activation='softmax')
    one = gfl(num_classes=1)
    model = MODELS.build(
        distiller(student=one, teacher=dict(config=one, untrained=True), losses=dict(cls=cls))
    )
    with pytest.raises(
        SetupError, match=r"losses\.cls: a softmax over one class.*`activation='auto'`"
    ):
        model.load_teacher()
    model = MODELS.build(
        distiller(
            student=one,
            teacher=dict(config=one, untrained=True),
            losses=dict(cls=cls | dict(activation='auto')),
        )
    )
    model.load_teacher()


def test_a_type_of_ours_needs_no_prefix():
    model = MODELS.build(distiller(losses=dict(ld=dict(type='LocalizationDistillation'))))
    assert type(model.losses.ld).__name__ == 'LocalizationDistillation'
