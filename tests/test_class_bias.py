"""The bias of one class: shifted in one place, and as much as the teacher says."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict

from kd_dense import MODELS, commands
from kd_dense.class_bias import matching_shift, odds, shift_class, teachers_share
from kd_dense.errors import SetupError
from kd_dense.hosts import build_model
from kd_dense.hosts.heads import class_bias
from kd_dense.views import Batch, view_class
from tests.helpers import segmentation
from tests.helpers.models import distiller, gfl, losses
from tests.helpers.pairs import retina
from tests.helpers.two_stage import faster_rcnn

pytestmark = pytest.mark.usefixtures('own_scope')


def changed(model, label: int, shift: float) -> dict[str, int]:
    """How many numbers of each weight a shift changes."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    shift_class(model, label, shift)
    found = {name: int((p != before[name]).sum()) for name, p in model.named_parameters()}
    return {name: count for name, count in found.items() if count}


def test_a_shift_changes_one_entry():
    assert changed(build_model(gfl()), 2, 1.5) == {'bbox_head.gfl_cls.bias': 1}
    assert changed(build_model(segmentation.segmentor()), 1, 1.5) == {
        'decode_head.conv_seg.bias': 1
    }
    assert changed(build_model(ConfigDict(faster_rcnn())), 1, 1.5) == {
        'roi_head.bbox_head.fc_cls.bias': 1
    }


def test_each_anchor_of_a_position_has_a_bias():
    model = build_model(retina())
    _, entries = class_bias(model, 1)
    anchors = model.bbox_head.num_base_priors
    assert len(entries) == anchors > 1
    maps = torch.zeros(1, model.bbox_head.feat_channels, 2, 2)
    scores = [model.bbox_head.retina_cls(maps)]
    shift_class(model, 1, 3.0)
    difference = model.bbox_head.retina_cls(maps) - scores[0]
    by_class = difference.view(1, anchors, -1, 2, 2)
    assert torch.allclose(by_class[:, :, 1], torch.tensor(3.0))
    assert by_class.count_nonzero() == anchors * 4


@pytest.mark.parametrize('label', [-1, 99])
def test_a_class_that_is_not_there(label):
    with pytest.raises(SetupError, match='There is no class'):
        class_bias(build_model(gfl()), label)


def test_odds_are_the_probability_and_move_with_the_bias():
    pair = MODELS.build(segmentation.distiller({}))
    data = pair.data_preprocessor(segmentation.raw_batch(((32, 32), (24, 32))), True)
    model = pair.student.eval()
    batch = Batch(data['inputs'], data['data_samples'])
    with torch.no_grad():
        view = view_class(model)(model, batch)
        before = odds(view, 1)
        size = view.seg_logits.shape[-2:]
        inside = batch.inside(size, 32 / size[1])
        wanted = view.seg_logits.softmax(dim=1)[:, 1][inside]
        assert 0 < inside.sum() < inside.numel()  # padding is left out
        torch.testing.assert_close(before.sigmoid(), wanted)
        shift_class(model, 1, 0.7)
        torch.testing.assert_close(odds(view_class(model)(model, batch), 1), before + 0.7)


def test_the_shift_brings_the_mean_to_the_one_that_is_wanted():
    torch.manual_seed(0)
    rows = [torch.randn(100), 3 * torch.randn(50) - 2]
    moved = torch.cat(rows).double() + 1.25
    assert matching_shift(rows, float(moved.sigmoid().mean())) == pytest.approx(1.25, abs=1e-6)
    same = float(torch.cat(rows).double().sigmoid().mean())
    assert matching_shift(rows, same) == pytest.approx(0, abs=1e-6)
    with pytest.raises(SetupError, match='No shift between'):
        matching_shift(rows, 1.0)


def test_the_teacher_says_how_likely_a_class_is():
    pair = MODELS.build(segmentation.distiller({}))
    pair.load_teacher()
    batch = segmentation.raw_batch(((32, 32),) * 2)
    ours, wanted = teachers_share(pair, iter([batch, batch, batch]), 2, images=3)
    assert len(ours) == 2  # two batches hold the three images
    shift = matching_shift(ours, wanted)
    shift_class(pair.student, 2, shift)
    again, _ = teachers_share(pair, iter([batch, batch]), 2, images=3)
    assert float(torch.cat(again).double().sigmoid().mean()) == pytest.approx(wanted, abs=1e-5)


@pytest.fixture
def trained(digits_root, tmp_path, monkeypatch):
    """Config and checkpoint of a detector with a teacher."""
    from tests.helpers.trainings import base_config

    monkeypatch.chdir(tmp_path)
    whole = base_config(digits_root, tmp_path / 'out')
    whole['model'] = distiller(
        student=gfl(num_classes=10),
        teacher=dict(config=gfl(channels=32, num_classes=10), untrained=True),
        losses=losses(ld=0.25),
    )
    whole['test_dataloader'] = whole['val_dataloader']
    whole['test_evaluator'] = whole['val_evaluator']
    Config(whole).dump('pair.py')
    model = build_model(gfl(num_classes=10))
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'student.pth')
    return model


def call(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, 'argv', ['kd-dense', 'class-bias', *arguments])
    commands.main()


def test_the_command_writes_a_plain_student(trained, monkeypatch, capsys):
    call(monkeypatch, 'pair.py', 'student.pth', '--class', 'three', '--shift', '-2.5')
    assert '-2.500 in 1 entry of the bias' in capsys.readouterr().out
    written = torch.load('shifted/student.pth', weights_only=False)
    state = trained.state_dict()
    name = 'bbox_head.gfl_cls.bias'
    difference = written['state_dict'][name] - state[name]
    assert difference[3] == pytest.approx(-2.5) and difference.count_nonzero() == 1
    others = (key for key in state if key != name)
    assert all(torch.equal(written['state_dict'][key], state[key]) for key in others)
    assert written['meta']['made_by']['class_bias'] == dict(three=-2.5)

    call(monkeypatch, 'pair.py', 'student.pth', '--class', 'three', '--images', '4')
    assert 'three: mean probability' in capsys.readouterr().out


def metrics_of_last_test(folder: Path) -> dict:
    (file,) = folder.glob('*/*.json')
    return json.loads(file.read_text())


def test_the_command_measures_before_and_after(trained, monkeypatch, capsys):
    call(monkeypatch, 'pair.py', 'student.pth', '--class', 'three', '--shift', '20', '--measure')
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = {' '.join(words[:-3]): words[-3:] for words in lines if len(words) > 4}
    before, after, change = (float(x) for x in table['right class, three'])
    assert after == 100 > before and change == pytest.approx(after - before)
    assert float(table['right class, mean of the other classes'][1]) == 0
    told = metrics_of_last_test(Path('shifted'))
    assert told['box_acc/three'] == 100 and told['box_acc/one'] == 0
    assert float(table['right class, all boxes'][1]) == pytest.approx(told['box_acc/all'])
    # what is written is what was measured
    written = torch.load('shifted/student.pth', weights_only=False)['meta']['made_by']
    assert written['class_bias'] == dict(three=20)


def test_the_command_chooses_by_validation(trained, monkeypatch, capsys):
    arguments = ('--class', 'three', '--shift', 'validation', '--measure')
    call(monkeypatch, 'pair.py', 'student.pth', *arguments)
    said = capsys.readouterr().out
    found = re.search(r'boxes of the right class (\S+) % before, (\S+) % after; an upper', said)
    before, after = map(float, found.groups())
    row = re.search(r'right class, all boxes +(\S+) +(\S+)', said)
    assert (before, after) == pytest.approx(tuple(map(float, row.groups())), abs=0.011)
    assert after >= before  # the tests are of the validation images here


@pytest.fixture
def trained_segmentor(tmp_path, monkeypatch):
    """Config and checkpoint of a segmentor with a teacher."""
    from tests.helpers.trainings import shapes_config

    monkeypatch.chdir(tmp_path)
    whole = shapes_config(tmp_path / 'data', tmp_path / 'out')
    whole['model'] = segmentation.distiller()
    whole['optim_wrapper'] = dict(optimizer=dict(type='AdamW', lr=0.01))
    whole['test_dataloader'], whole['test_evaluator'] = (
        whole['val_dataloader'], whole['val_evaluator'],
    )  # fmt: skip
    Config(whole).dump('pair.py')
    model = segmentation.build(segmentation.segmentor())
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'student.pth')


def test_the_command_measures_a_segmentor(trained_segmentor, monkeypatch, capsys):
    arguments = ('--class', 'disc', '--shift', 'validation', '--measure')
    call(monkeypatch, 'pair.py', 'student.pth', *arguments)
    said = capsys.readouterr().out
    found = re.search(r'mean IoU (\S+) % before, (\S+) % after', said)
    row = re.search(r'mIoU +(\S+) +(\S+)', said)
    first, second = (tuple(map(float, each.groups())) for each in (found, row))
    assert first == pytest.approx(second, abs=0.011) and first[1] > first[0]
    assert 'IoU, disc ' in said and 'IoU, mean of the other classes ' in said
    told = metrics_of_last_test(Path('shifted'))
    assert told['mIoU'] == pytest.approx(second[1], abs=0.011)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--class', 'drei'), "no class 'drei'; the student knows zero, one"),
        (('--class', 'three', '--shift', 'much'), 'invalid shift value'),
        (
            ('--class', 'three', '--measure', '--cfg-options', 'test_evaluator=None'),
            'has no `test_evaluator`',
        ),
        (('--class', 'three', '--cfg-options', 'model.losses.ld.weight=1'), ''),
    ],
)
def test_what_is_wrong_is_told(arguments, words, trained, monkeypatch, capsys):
    if not words:
        call(monkeypatch, 'pair.py', 'student.pth', *arguments, '--images', '2')
        return
    with pytest.raises(SystemExit):
        call(monkeypatch, 'pair.py', 'student.pth', *arguments)
    assert words in ' '.join(capsys.readouterr().err.split())
