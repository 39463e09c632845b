"""Checks of a pair: each mismatch is named with the losses that mind it, and no others mind."""

import re

import pytest
import torch
from torch import nn

from kd_dense import (
    DistillationLoss,
    FeatureImitation,
    LocalizationDistillation,
    PearsonDistillation,
    SoftTargets,
)
from kd_dense.errors import SetupError
from kd_dense.pair import check_classes
from tests.helpers.models import gfl
from tests.helpers.pairs import atss, build, check_models, fcos, retina
from tests.helpers.two_stage import hybrid_cascade


def losses() -> dict[str, DistillationLoss]:
    return dict(ld=LocalizationDistillation(), cls=SoftTargets(), hint=FeatureImitation())


def findings(student: nn.Module, teacher: nn.Module, **kwargs) -> list[str]:
    """What :func:`check_pair` finds, line by line; nothing if it is content."""
    kwargs = dict(losses=losses()) | kwargs
    try:
        check_models(student, teacher, **kwargs)
    except SetupError as error:
        lines = str(error).split('\n')
        assert re.fullmatch(r'Teacher \(\w+\) and student \(\w+\) do not fit:', lines[0])
        assert lines[-1].startswith('Choose a teacher that agrees with the student there, or leave')
        return [line.removeprefix('  - ') for line in lines[1:-1]]
    return []


@pytest.fixture
def student() -> nn.Module:
    return build(gfl())


def other_strides() -> dict:
    config = gfl()
    config['bbox_head']['anchor_generator']['strides'] = [4, 8, 16]
    config['neck'].update(start_level=0, end_level=2)
    return config


def more_levels() -> dict:
    config = gfl()
    config['neck']['num_outs'] = 4
    config['bbox_head']['anchor_generator']['strides'] = [8, 16, 32, 64]
    return config


def more_bins() -> dict:
    config = gfl()
    config['bbox_head']['reg_max'] = 16
    return config


def test_models_that_agree_fit(student):
    assert findings(student, build(gfl(channels=32), 1)) == []


def test_another_number_of_classes(student):
    expected = 'number of classes: the teacher has 5, the student 3 (minded by '
    teacher = build(gfl(num_classes=5))
    assert findings(student, teacher) == [f'{expected}losses.ld, losses.cls, losses.hint)']
    hint = dict(hint=FeatureImitation())
    assert findings(student, teacher, losses=hint) == [f'{expected}losses.hint)']


def test_another_number_of_classes_is_fine_for_features_alone(student):
    teacher = build(gfl(num_classes=5))
    hint = dict(hint=FeatureImitation())
    assert findings(student, teacher, losses=hint, same_classes=False) == []
    assert findings(student, teacher, same_classes=False) == [
        'number of classes: the teacher has 5, the student 3 (minded by losses.cls)'
    ]


def test_imitation_in_the_general_region_minds_classes_and_boxes(student):
    general = dict(hint=FeatureImitation('general'))
    assert findings(student, build(gfl(num_classes=5)), losses=general, same_classes=False) == [
        'number of classes: the teacher has 5, the student 3 (minded by losses.hint)'
    ]
    (found,) = findings(student, build(atss()), losses=general)
    assert found.startswith('encoding of boxes: the teacher has 4 values by DeltaXYWHBBoxCoder')
    soft = dict(cls=SoftTargets(region='general'))
    assert findings(student, build(atss()), losses=soft) == [
        found.replace('losses.hint', 'losses.cls')
    ]


def test_other_strides_are_minded_by_all(student):
    assert findings(student, build(other_strides())) == [
        'strides of the feature levels: the teacher has (4, 8, 16), the student (8, 16, 32) '
        '(minded by losses.ld, losses.cls, losses.hint)'
    ]


def test_another_number_of_levels_is_minded_by_all(student):
    for only in losses():
        (found,) = findings(student, build(more_levels()), losses={only: losses()[only]})
        assert found == (
            'strides of the feature levels: the teacher has (8, 16, 32, 64), the student '
            f'(8, 16, 32) (minded by losses.{only})'
        )


def test_another_number_of_bins_is_minded_by_what_reads_boxes(student):
    assert findings(student, build(more_bins())) == [
        'encoding of boxes: the teacher has distribution over 17 bins, the student distribution '
        'over 9 bins (minded by losses.ld)'
    ]
    assert findings(student, build(more_bins()), losses=dict(cls=SoftTargets())) == []


def test_softmax_against_sigmoid_is_minded_by_what_reads_classes():
    teacher = build(retina(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)))
    some = dict(cls=SoftTargets(), hint=FeatureImitation())
    assert findings(build(retina()), teacher, losses=some) == [
        'kind of class scores: the teacher has softmax, the student sigmoid (minded by losses.cls)'
    ]
    assert findings(build(retina()), teacher, losses=dict(hint=FeatureImitation())) == []


def test_another_number_of_anchors_is_minded_by_what_reads_predictions(student):
    some = dict(cls=SoftTargets(), hint=FeatureImitation())
    assert findings(student, build(retina()), losses=some) == [
        'predictions per position: the teacher has 9, the student 1 (minded by losses.cls)'
    ]


def test_other_heads_fit_where_nothing_they_disagree_in_is_read(student):
    some = dict(cls=SoftTargets(), hint=FeatureImitation())
    assert findings(student, build(atss()), losses=some) == []
    assert findings(student, build(fcos()), losses=some) == []
    (found,) = findings(student, build(fcos()))
    assert found == (
        'encoding of boxes: the teacher has 4 values by DistancePointBBoxCoder, the student '
        'distribution over 9 bins (minded by losses.ld)'
    )


def test_all_differences_are_told_at_once(student):
    found = findings(student, build(retina(num_classes=5)))
    assert [f.split(':')[0] for f in found] == [
        'number of classes',
        'predictions per position',
        'encoding of boxes',
    ]
    assert found[1].endswith('(minded by losses.ld, losses.cls)')


def test_what_losses_miss_in_the_student_is_told_with_it():
    found = findings(build(atss()), build(atss(), 1))
    assert found == [
        'losses.ld: localization distillation needs a head that predicts each box edge as a '
        'distribution (GFLHead), found ATSSHead'
    ]
    vlr = dict(hint=FeatureImitation('vlr'))
    found = findings(build(retina()), build(gfl(num_classes=4)), losses=vlr)
    assert [f.split(':')[0] for f in found] == ['number of classes', 'losses.hint']


def test_a_host_of_another_family_can_share_its_features_alone(student):
    cascade = build(hybrid_cascade())
    message = (
        r'losses\.cls: SoftTargets reads cls_logits, which kd_dense does not know of a '
        r'HybridTaskCascade \(features-only\)\n.*; losses on features ask the least of a pair: '
        r'hints'
    )
    with pytest.raises(SetupError, match=message):
        check_models(cascade, build(hybrid_cascade()), dict(cls=SoftTargets()))
    with pytest.raises(SetupError, match='host family: the teacher has features-only, the student'):
        check_models(student, cascade, dict(cls=SoftTargets()))
    hints = dict(hint=FeatureImitation(), pkd=PearsonDistillation())
    check_models(cascade, build(hybrid_cascade()), hints)
    check_models(student, cascade, dict(pkd=PearsonDistillation()))


def test_losses_may_come_as_a_module_dict(student):
    modules = nn.ModuleDict(losses())
    assert findings(student, build(gfl(), 1), losses=modules) == []
    assert len(findings(student, build(more_bins()), losses=modules)) == 1


def test_checking_leaves_both_models_alone(student):
    teacher = build(gfl(), 1)
    before = [p.clone() for m in (student, teacher) for p in m.parameters()]
    check_models(student, teacher, losses())
    after = [p for m in (student, teacher) for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


# -- class names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        (None, ('cat',)),
        (('cat',), None),
        (None, None),
        (('cat', 'dog'), ('cat', 'dog')),
        (['cat', 'dog'], ('cat', 'dog')),
    ],
)
def test_the_same_classes_or_unknown_ones_pass(ours, theirs):
    assert check_classes(ours, theirs, 'a.pth') is None


@pytest.mark.parametrize(
    ('ours', 'theirs', 'parts'),
    [
        (
            ('a', 'b', 'c', 'd', 'e', 'f'),
            ('a', 'b', 'd', 'c', 'e', 'f'),
            [
                'trained with 6 classes, which are not the 6 of the training set',
                "The same classes in another order: class 2 is 'd' for the teacher and 'c' in the",
            ],
        ),
        (
            ('cat', 'dog'),
            ('cat', 'dog', 'bird'),
            [
                'trained with 3 classes, which are not the 2 of',
                "Other classes: class 2 is 'bird' for the teacher and missing in the training set.",
            ],
        ),
        (
            tuple('abcdef'),
            tuple('uvwxyz'),
            ["class 0 is 'u'", "3 is 'x' for the teacher and 'd' in the", 'set, and 2 more.'],
        ),
    ],
)
def test_other_classes_are_refused_with_the_first_difference(ours, theirs, parts):
    with pytest.raises(SetupError) as error:
        check_classes(ours, theirs, 'a.pth')
    for part in (*parts, 'a.pth was trained', 'metainfo=dict(classes=', 'same_classes=False'):
        assert part in str(error.value)
