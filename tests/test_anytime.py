"""Exits at run time: who leaves where, what it takes, what it brings."""

import copy

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.runner import Runner

from kd_dense import MODELS
from kd_dense.anytime import (
    Image,
    best_choice,
    exits_of,
    leave_at,
    look,
    milliseconds,
    random_choice,
    sureness,
)
from kd_dense.commands import anytime as command
from kd_dense.errors import SetupError
from kd_dense.views import Batch, view_class
from tests.helpers import pairs, segmentation
from tests.helpers.models import gfl
from tests.helpers.trainings import training
from tests.test_peers import SHALLOWER, TRUNK

pytestmark = pytest.mark.usefixtures('own_scope')


def config(classes: int = 10) -> dict:
    student = gfl(num_classes=classes)
    exit_ = dict(model=student, shares=TRUNK, changes=SHALLOWER)
    return dict(type='kd_dense.Distiller', student=student, peers=dict(early=exit_))


def images(*sure: float) -> list[Image]:
    return [Image([each, 0.0], [each, 0.5], [None, None], {}) for each in sure]


def test_images_leave_at_the_first_exit_that_is_sure_enough():
    found = images(0.2, 0.8, 0.5)
    assert leave_at(found, 0).tolist() == [0, 0, 0]
    assert leave_at(found, 0.5).tolist() == [1, 0, 0]
    assert leave_at(found, 1.1).tolist() == [1, 1, 1]
    assert best_choice(found).tolist() == [0, 1, 0]
    assert best_choice([found[0]._replace(losses=[])]) is None
    chosen = leave_at(images(*np.linspace(0, 1, 40)), 0.6)
    by_chance = random_choice(chosen, 0)
    assert sorted(by_chance) == sorted(chosen) and (by_chance != chosen).any()


def test_how_sure_a_model_is_by_hand():
    model = segmentation.build(segmentation.segmentor()).eval()
    data = model.data_preprocessor(segmentation.raw_batch(((64, 64),)), False)
    view = view_class(model)(model, Batch(data['inputs'], data['data_samples']), torch.no_grad)
    p = view.seg_logits.softmax(1)
    assert sureness(view) == pytest.approx(float(p.max(1).values.mean()))
    model = pairs.build(gfl()).eval()
    view = view_class(model)(model, Batch(torch.rand(1, 3, 64, 64), []), torch.no_grad)
    scores = view.flat_cls_logits.sigmoid().max(-1).values[0].sort(descending=True).values[:100]
    expected = torch.where(scores > 0.5, scores, 1 - scores).mean()
    assert sureness(view) == pytest.approx(float(expected))


def test_only_peers_that_share_parts_are_exits():
    model = MODELS.build(config())
    assert list(exits_of(model)) == ['early', 'student']
    with pytest.raises(SetupError, match="'b' is no peer that shares"):
        exits_of(model, ['b'])
    alone = MODELS.build(dict(config(), peers=dict(b=dict(model=gfl(num_classes=10)))))
    with pytest.raises(SetupError, match='There are no exits'):
        exits_of(alone)


def test_what_comes_later_begins_where_the_exit_stopped(digits_root):
    model = MODELS.build(config()).eval()
    runs = []
    for module in model.student.backbone.layer1.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *_: runs.append(1))
    size = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
    image = dict(inputs=[torch.zeros(3, 64, 64)], data_samples=[DetDataSample(metainfo=size)])
    ms = milliseconds(model, exits_of(model), image, rounds=1)
    # two rounds with the warm-up, each alone and then both: the trunk once in each of the four
    assert len(runs) == 4 * 4
    assert len(ms) == 2 and min(ms) > 0


def test_the_command_tells_the_curve(digits_root, tmp_path, monkeypatch, capsys):
    whole = training(digits_root, tmp_path / 'run')
    whole.model = config()
    whole.dump(tmp_path / 'config.py')
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(config()))
    with torch.no_grad():
        for each in (model.student, model.peers['early'].model):
            each.bbox_head.gfl_cls.bias.zero_()  # so that there are detections
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'all.pth')
    arguments = [str(tmp_path / 'config.py'), str(tmp_path / 'all.pth')]
    whole.val_evaluator.outfile_prefix = str(tmp_path / 'found/boxes')
    whole.dump(tmp_path / 'config.py')
    options = ['--images', '6', '--rounds', '1', '--points', '3']
    monkeypatch.setattr('sys.argv', ['kd-dense anytime', *arguments, *options])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(('early', 'student', 'by '))]
    assert [row[0] for row in rows[:2]] == ['early', 'student']
    assert {' '.join(row[:2]) for row in rows[2:]} == {'by sureness', 'by chance', 'by the'}
    early, deep = (float(row[-2]) for row in rows[:2])
    for row in rows:
        shares = [float(cell.strip('%')) / 100 for cell in row if cell.endswith('%')]
        assert sum(shares) == pytest.approx(1, abs=0.011)
        mean = shares[0] * early + shares[1] * deep
        assert float(row[-2]) == pytest.approx(mean, abs=0.1 + 0.01 * deep)
    assert (tmp_path / 'anytime/anytime.png').read_bytes()[:4] == b'\x89PNG'
    assert not (tmp_path / 'found').exists()  # what the metric would write at each point
    # own losses are of the annotations in the size that the model sees
    batches = Runner.build_dataloader(dict(whole.val_dataloader, batch_size=1, num_workers=0,
                                           persistent_workers=False))  # fmt: skip
    model.eval()
    (seen,) = look(exits_of(model), [next(iter(batches))])
    assert len(seen.losses) == 2 and all(np.isfinite(seen.losses))


def test_a_checkpoint_of_the_student_alone_is_refused(digits_root, tmp_path, monkeypatch, capsys):
    whole = training(digits_root, tmp_path / 'run')
    whole.model = config()
    whole.dump(tmp_path / 'config.py')
    state = MODELS.build(copy.deepcopy(config())).student.state_dict()
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'student.pth')
    arguments = [str(tmp_path / 'config.py'), str(tmp_path / 'student.pth')]
    monkeypatch.setattr('sys.argv', ['kd-dense anytime', *arguments])
    with pytest.raises(SystemExit):
        command.main()
    told = capsys.readouterr().err
    assert 'does not fit the training with all exits' in told and 'missing: student.' in told
