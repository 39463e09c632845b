"""A student that starts with its teacher's neck and head."""

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from kd_dense import MODELS
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model
from tests.helpers.models import distiller, gfl, losses
from tests.helpers.pairs import atss, build, retina
from tests.helpers.trainings import assert_same, base_config, state


@pytest.fixture
def teacher(tmp_path):
    """Checkpoint of a teacher, and its weights."""
    weights = build(gfl(), seed=7).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'teacher.pth')
    return str(tmp_path / 'teacher.pth'), weights


def built(checkpoint: str, inherit, student: dict | None = None, **options):
    torch.manual_seed(0)
    model = MODELS.build(
        distiller(
            student=student or gfl(),
            teacher=dict(config=gfl(), checkpoint=checkpoint, **options),
            losses=losses(imitation=1.0),
            inherit=inherit,
        )
    )
    model.init_weights()
    return model


def plain() -> dict:
    torch.manual_seed(0)
    model = build_model(gfl())
    model.init_weights()
    return model.state_dict()


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize(
    ('inherit', 'parts'),
    [
        (True, ('neck', 'bbox_head')),
        (['neck'], ('neck',)),
        ('bbox_head', ('bbox_head',)),
        (['bbox_head.cls_convs', 'neck'], ('bbox_head.cls_convs', 'neck')),
        (False, ()),
        ([], ()),
    ],
)
def test_every_weight_of_the_parts_is_the_teachers_and_all_others_are_the_students(
    teacher, inherit, parts, fast
):
    path, weights = teacher
    expected = plain()
    taken = [name for name in expected if name.startswith(tuple(f'{p}.' for p in parts))]
    assert bool(taken) == bool(parts)
    expected |= {name: weights[name] for name in taken}
    assert_same(built(path, inherit, fast=fast).student.state_dict(), expected, 'student')


def test_the_teachers_own_weights_are_not_shared(teacher):
    path, weights = teacher
    model = built(path, True, fast=False)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.zero_()
    assert_same(model.teacher.model.state_dict(), weights, 'teacher')


def test_batch_norm_statistics_are_inherited_though_the_teacher_folds_its_own(tmp_path):
    config = gfl()
    config['neck']['norm_cfg'] = dict(type='BN')
    weights = build(config, seed=7).state_dict()
    torch.save(weights, tmp_path / 'teacher.pth')
    model = MODELS.build(
        distiller(
            student=config,
            teacher=dict(config=config, checkpoint=str(tmp_path / 'teacher.pth')),
            inherit=['neck'],
        )
    )
    model.init_weights()
    names = [name for name in weights if name.startswith('neck.') and 'running_var' in name]
    own = model.student.state_dict()
    assert names and all(torch.equal(own[name], weights[name]) for name in names)


def test_the_log_tells_what_was_inherited(teacher, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        built(teacher[0], ['neck'])
        count = sum(name.startswith('neck.') for name in teacher[1])
        assert f'starts with the neck of the teacher ({count} weights of {teacher[0]})' in (
            caplog.text
        )
        caplog.clear()
        built(teacher[0], False)
        assert 'starts with' not in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    ('student', 'inherit', 'message'),
    [
        (gfl(channels=24), True, r'neck: .*other shape: .*lateral_convs[^;]*\(16, 16, 1, 1\)'),
        (gfl(num_classes=5), True, r'gfl_cls\.weight.*These fit: `inherit=\[\'neck\'\]`'),
        (atss(), ['bbox_head'], "bbox_head: the teacher's is a GFLHead, the student's a ATSSHead"),
        (gfl(), ['rpn_head'], 'rpn_head: the student has no such part, it has neck, bbox_head'),
        (gfl(), [''], 'the student has no such part'),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_training(teacher, student, inherit, message):
    with pytest.raises(SetupError, match=f'(?s)cannot inherit these parts.*{message}'):
        built(teacher[0], inherit, student, same_classes=False)


def test_what_is_nothing_to_inherit_is_refused():
    with pytest.raises(SetupError, match=r'inherit is 3; it is True .* False, or a list of parts'):
        MODELS.build(distiller(inherit=3))
    with pytest.raises(SetupError, match='no checkpoint to copy them from'):
        MODELS.build(distiller(inherit=True)).init_weights()


def test_nothing_fits_between_two_kinds_of_detectors(teacher):
    with pytest.raises(SetupError, match='bbox_head: the teacher') as error:
        built(teacher[0], True, retina())
    assert "inherit=['neck']" in str(error.value)


def test_the_random_numbers_of_a_student_stay_its_own(teacher):
    torch.manual_seed(0)
    build_model(gfl()).init_weights()
    expected = torch.rand(3)
    for inherit in (False, True):
        built(teacher[0], inherit)
        assert torch.equal(torch.rand(3), expected)


# -- through a runner --------------------------------------------------------------------------


def trained(digits_root, work_dir, teacher, **changes):
    config = base_config(digits_root, work_dir)
    config['model'] = distiller(
        student=gfl(num_classes=10),
        teacher=dict(config=gfl(num_classes=10), checkpoint=teacher),
        losses=losses(imitation=0.1),
        inherit=True,
    )
    config['train_cfg']['val_interval'] = 100
    runner = Runner.from_cfg(Config(config | changes))
    runner.train()
    return runner


def test_what_is_loaded_wins_and_a_resumed_training_does_not_inherit_again(digits_root, tmp_path):
    path = str(tmp_path / 'teacher.pth')
    torch.save(build(gfl(num_classes=10), seed=7).state_dict(), path)
    whole, half = tmp_path / 'whole', tmp_path / 'half'
    trained(digits_root, whole, path)
    saved = str(whole / 'iter_2.pth')
    trained(digits_root, half, path, load_from=saved, resume=True)
    a, b = state(whole / 'iter_4.pth'), state(half / 'iter_4.pth')
    assert_same(a['state_dict'], b['state_dict'], 'state_dict')

    start = build(gfl(num_classes=10), seed=3).state_dict()
    torch.save(start, tmp_path / 'start.pth')
    optimizer = dict(optimizer=dict(type='SGD', lr=0.0))
    options = dict(load_from=str(tmp_path / 'start.pth'), optim_wrapper=optimizer)
    runner = trained(digits_root, tmp_path / 'loaded', path, **options)
    own = runner.model.student.state_dict()
    assert torch.equal(own['bbox_head.gfl_cls.weight'], start['bbox_head.gfl_cls.weight'])
