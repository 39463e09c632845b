"""Teachers, views and losses from a user's own module, as the documentation has them."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from kd_dense import MODELS
from kd_dense.errors import SetupError
from tests.helpers.models import gfl
from tests.helpers.pairs import raw
from tests.test_docs import blocks

DOCS = Path(__file__).parents[1] / 'docs'
OPTIMIZER = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module, import it, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def write(name: str, text: str):
        (tmp_path / f'{name}.py').write_text(text)
        names.append(name)
        return __import__(name)

    yield write
    for name in names:
        del sys.modules[name]


@pytest.fixture
def registered(monkeypatch):
    """Forget afterwards what was registered meanwhile."""
    from mmdet.registry import MODELS as MMDET_MODELS

    from kd_dense import TEACHERS, VIEWS

    for registry in (MODELS, TEACHERS, VIEWS, MMDET_MODELS):
        monkeypatch.setattr(registry, '_module_dict', dict(registry.module_dict))


def started(config: dict) -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model.train(), build_optim_wrapper(model, copy.deepcopy(OPTIMIZER))


def average(**changes) -> dict:
    """A GFL taught by its own running average."""
    return dict(
        type='kd_dense.Distiller',
        student=gfl(),
        teacher=dict(type='kd_dense.RunningAverage', momentum=0.5) | changes,
        losses=dict(cls=dict(type='kd_dense.SoftTargets', weight=1.0)),
    )


def test_the_documented_teacher_follows_its_student(module, registered):
    module('my_teacher', blocks(DOCS / 'add_a_teacher.md', 'python')[0])
    model, wrapper = started(average())
    first = model.train_step(raw(seed=0), wrapper)
    # the average begins with the student's own weights: batch norms make the whole difference
    assert 0 <= first['loss_kd_cls'] < 1e-3
    before = model.student.bbox_head.gfl_cls.weight.detach().clone()
    held = model.teacher.module.bbox_head.gfl_cls.weight.clone()
    model.train_step(raw(seed=1), wrapper)
    now = model.student.bbox_head.gfl_cls.weight.detach()
    assert not torch.equal(now, before)
    expected = held.lerp(now, 0.5)
    torch.testing.assert_close(model.teacher.module.bbox_head.gfl_cls.weight, expected)


def test_what_a_teacher_keeps_is_saved_and_loaded_and_out_of_reach_of_the_optimizer(
    module, registered
):
    module('my_teacher', blocks(DOCS / 'add_a_teacher.md', 'python')[0])
    model, wrapper = started(average())
    for seed in range(2):
        model.train_step(raw(seed=seed), wrapper)
    kept = {k for k in model.state_dict() if k.startswith('teacher_modules.teacher.')}
    assert len(kept) == len(model.student.state_dict()) + 1
    again, _ = started(average())
    again.load_state_dict(model.state_dict())
    for a, b in zip(
        again.teacher.module.parameters(), model.teacher.module.parameters(), strict=True
    ):
        assert torch.equal(a, b) and not a.requires_grad and a.grad is None


def test_the_average_begins_with_the_weights_that_were_loaded(module, registered):
    module('my_teacher', blocks(DOCS / 'add_a_teacher.md', 'python')[0])
    model, _ = started(average())
    torch.manual_seed(5)
    plain = MODELS.build(gfl())
    plain.init_weights()
    model.load_state_dict(plain.state_dict(), strict=False)  # as `load_from` does
    data = model.data_preprocessor(raw(), True)
    model(**data, mode='loss')
    for a, b in zip(model.teacher.module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_at_weight_zero_such_a_teacher_leaves_the_student_alone(module, registered):
    module('my_teacher', blocks(DOCS / 'add_a_teacher.md', 'python')[0])
    config = average()
    config['losses']['cls']['weight'] = 0
    model, wrapper = started(config)
    torch.manual_seed(0)
    plain = MODELS.build(gfl())
    plain.init_weights()
    optimizer = build_optim_wrapper(plain.train(), copy.deepcopy(OPTIMIZER))
    for seed in range(3):
        model.train_step(raw(seed=seed), wrapper)
        plain.train_step(raw(seed=seed), optimizer)
    for a, b in zip(model.student.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_several_teachers_of_several_kinds_teach_side_by_side(module, registered):
    module('my_teacher', blocks(DOCS / 'add_a_teacher.md', 'python')[0])
    config = average()
    config['teachers'] = dict(
        large=dict(config=gfl(channels=32), untrained=True), average=config.pop('teacher')
    )
    config['losses'] = dict(
        ld=dict(type='kd_dense.LocalizationDistillation', teacher='large'),
        cls=dict(type='kd_dense.SoftTargets', teacher='average'),
    )
    model, wrapper = started(config)
    shown = []
    for name, teacher in model.teachers.items():
        view = teacher.view

        def noted(*args, name=name, view=view):
            shown.append(name)
            return view(*args)

        teacher.view = noted
    logs = model.train_step(raw(), wrapper)
    assert logs['loss_kd_ld'] > 1e-3 > logs['loss_kd_cls'] and shown == ['large', 'average']
    model.losses.ld.weight = 0
    model.train_step(raw(), wrapper)
    assert shown[2:] == ['average']  # nobody looks at the large one any more


def heat(width: int) -> dict:
    preprocessor = gfl()['data_preprocessor']
    return dict(
        _scope_='mmdet', type='HeatMapDetector', width=width, data_preprocessor=preprocessor
    )


def heat_pair(**losses) -> dict:
    return dict(
        type='kd_dense.Distiller',
        student=heat(8),
        teacher=dict(config=heat(16), untrained=True),
        losses=losses or dict(heat=dict(type='kd_dense.HeatMapDistillation')),
    )


def test_the_documented_view_shows_a_host_of_ones_own(module, registered):
    host, view = blocks(DOCS / 'add_a_view.md', 'python')[:2]
    module('my_host', host)
    module('my_view', view)
    hint = dict(type='kd_dense.FeatureImitation')
    model, wrapper = started(
        heat_pair(heat=dict(type='kd_dense.HeatMapDistillation', weight=100.0), hint=hint)
    )
    assert model._view.__name__ == 'HeatMapView'
    values = [float(model.train_step(raw(), wrapper)['loss_kd_heat']) for _ in range(30)]
    assert 0 < values[-1] < values[0]
    assert len(model.losses.hint.adapters) == 1


def test_a_loss_that_reads_what_the_host_has_not_is_refused_with_what_it_has(module, registered):
    host, view = blocks(DOCS / 'add_a_view.md', 'python')[:2]
    module('my_host', host)
    module('my_view', view)
    cls = dict(type='kd_dense.SoftTargets')
    with pytest.raises(
        SetupError, match=r'reads cls_logits, which kd_dense does not know of a Heat'
    ):
        started(heat_pair(cls=cls))
    config = heat_pair()
    config['student'] = gfl()
    with pytest.raises(
        SetupError, match=r'HeatMapDistillation reads heat, which kd_dense does not'
    ):
        started(config)


def test_a_property_that_no_view_has_is_told_with_those_that_there_are(registered):
    from kd_dense import DistillationLoss

    @MODELS.register_module()
    class Misspelt(DistillationLoss):
        reads = ('cls_logit',)

    config = average()
    config.update(
        teacher=dict(config=gfl(), untrained=True),
        losses=dict(wrong=dict(type='kd_dense.Misspelt')),
    )
    message = r'reads cls_logit, which no view has; a GFL \(one-stage\) offers .*cls_logits'
    with pytest.raises(SetupError, match=message):
        started(config)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(teacher=None), r'has one `teacher=.*found neither'),
        (dict(teachers=dict(a=dict(config='a.py'))), r'found both'),
        (
            dict(teacher=dict(type='kd_dense.Nobody')),
            r"The teacher: there is no type 'kd_dense.Nobody'.*FrozenTeacher",
        ),
        (
            dict(teacher=dict(config='a.py', checkpoin='a')),
            r"found `checkpoin`, `config`. Did you mean 'checkpoint'",
        ),
        (
            dict(losses=dict(a=dict(type='kd_dense.SoftTargets', teacher='b'))),
            r"losses\.a\.teacher is 'b'; choose one of 'teacher'",
        ),
        (
            dict(losses=dict(a=dict(type='kd_dense.SoftTargets', student='b'))),
            r"losses\.a\.student is 'b'; choose one of 'student'",
        ),
    ],
)
def test_what_is_wrong_with_teachers_and_names_is_told(changes, message):
    config = dict(
        type='kd_dense.Distiller',
        student=gfl(),
        teacher=dict(config=gfl(), untrained=True),
        losses=dict(a=dict(type='kd_dense.SoftTargets')),
    )
    with pytest.raises(SetupError, match=message):
        MODELS.build(config | changes)


def test_of_several_teachers_each_loss_has_to_say_whose_it_is():
    both = {key: dict(config=gfl(), untrained=True) for key in ('a', 'b')}
    config = dict(
        type='kd_dense.Distiller',
        student=gfl(),
        teachers=both,
        losses=dict(cls=dict(type='kd_dense.SoftTargets')),
    )
    with pytest.raises(
        SetupError, match=r"losses\.cls\.teacher is not said; choose one of 'a', 'b'"
    ):
        MODELS.build(config)
