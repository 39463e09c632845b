"""The report holds the numbers of the runs, opens by itself, and says what is missing."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmengine.config import Config

from kd_dense.errors import SetupError
from kd_dense.hosts import build_model, read_model_config
from kd_dense.pictures import Objects
from kd_dense.pictures.draw import IGNORED
from kd_dense.record import FILE, recorded
from kd_dense.report import read_runs
from kd_dense.report.evidence import gather, most
from kd_dense.report.figures import write_sheet
from kd_dense.report.numbers import compare, known_metrics
from kd_dense.report.outcomes import (
    Change,
    average_precisions,
    change_of_objects,
    change_of_pixels,
    class_overlaps,
    match,
)
from kd_dense.report.page import render
from kd_dense.report.progress import write_curves
from tests.helpers.models import distiller, gfl
from tests.helpers.processes import run
from tests.helpers.segmentation import segmentor
from tests.helpers.trainings import train, training

ROOT = Path(__file__).parents[1]


def boxes(*rows: tuple, scores: tuple | None = None, ignored: tuple | None = None) -> Objects:
    """Objects from rows of x1, y1, x2, y2, label."""
    table = np.array(rows, float).reshape(-1, 5)
    return Objects(
        table[:, :4],
        table[:, 4].astype(int),
        None if scores is None else np.array(scores, float),
        None if ignored is None else np.array(ignored, bool),
    )


# ---- outcomes ----------------------------------------------------------------------------------


def test_each_object_is_found_once_by_the_surest_detection_of_its_class():
    truth = boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 2), (60, 0, 70, 10, 0),
                  ignored=(0, 0, 0, 1))  # fmt: skip
    found = boxes(
        (0, 0, 10, 9, 0),  # right
        (0, 0, 10, 10, 0),  # the same again
        (20, 0, 30, 10, 0),  # of another class
        (40, 0, 50, 4, 2),  # overlaps too little: 0.4
        (60, 0, 70, 10, 0),  # of what is ignored
        scores=(0.9, 0.8, 0.7, 0.6, 0.5),
    )
    result = match(truth, found)
    assert result.found.tolist() == [True, False, False, False]
    assert result.right.tolist() == [True, False, False, False, False]
    assert result.neutral.tolist() == [False, False, False, False, True]


def test_a_change_counts_objects_gained_and_lost():
    truth = [boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 0)), boxes()]
    alone = [
        boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 0), scores=(0.9, 0.2)),
        boxes((0, 0, 5, 5, 0), scores=(0.9,)),
    ]
    distilled = [boxes((20, 0, 30, 10, 0), scores=(0.9,)), boxes(scores=())]
    change = change_of_objects(truth, alone, distilled, 0.3)
    assert (change.both, change.gained, change.lost, change.neither) == (0, 1, 1, 0)
    assert (change.false_alone, change.false_distilled) == (1, 0)
    assert change.images == [(1, 1), (0, 0)]


def test_a_change_counts_pixels_but_not_ignored_ones():
    truth = [np.array([[0, 1, 2, IGNORED]])]
    alone, distilled = [np.array([[0, 0, 2, 2]])], [np.array([[0, 1, 1, 0]])]
    change = change_of_pixels(truth, alone, distilled)
    assert (change.both, change.gained, change.lost, change.neither) == (1, 1, 1, 0)
    assert change.total == 3 and change.false_alone is None


def test_images_with_the_largest_net_change_come_first():
    change = Change(images=[(0, 0), (5, 1), (1, 4), (2, 0), (0, 1)])
    assert most(change, 2) == ([1, 3], [2, 4])


def test_average_precisions_are_those_of_pycocotools():
    truth = [boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 1)), boxes((0, 0, 10, 10, 0))]
    found = [
        boxes((0, 0, 10, 10, 0), (20, 0, 30, 10, 0), scores=(0.9, 0.95)),
        boxes((0, 0, 10, 10, 0), scores=(0.8,)),
    ]
    ap = average_precisions(truth, found, 3)
    # class 0: a wrong one first, then both: precision 1/2 and 2/3 at recalls 1/2 and 1
    assert ap[0] == pytest.approx(100 * 2 / 3, abs=0.01)
    assert ap[1] == 0 and ap[2] is None
    nothing = [boxes(scores=()), boxes(scores=())]
    assert average_precisions(truth, nothing, 3) == [0.0, 0.0, None]


def test_class_overlaps_are_mmsegs():
    from mmseg.evaluation import IoUMetric

    rng = np.random.default_rng(0)
    truth = [rng.integers(0, 4, (9, 8)), rng.integers(0, 4, (5, 6))]
    truth[0][:2] = IGNORED
    found = [rng.integers(0, 4, t.shape) for t in truth]
    ours = class_overlaps(truth, found, 5)
    parts = [
        IoUMetric.intersect_and_union(torch.tensor(f), torch.tensor(t), 5, IGNORED)
        for f, t in zip(found, truth, strict=True)
    ]
    shared, union = (sum(part[i] for part in parts) for i in (0, 1))
    assert ours[:4] == pytest.approx((100 * shared / union)[:4].tolist(), abs=1e-3)
    assert ours[4] is None


# ---- runs ----------------------------------------------------------------------------------------

MODELS = dict(
    teacher=gfl(channels=32, num_classes=10),
    alone=gfl(num_classes=10),
    distilled=distiller(
        student=gfl(num_classes=10), teacher=dict(config='configs/the_teacher.py', checkpoint='x')
    ),
)
SCORES = dict(teacher=0.468, alone=0.2, distilled=0.4)


@pytest.fixture(scope='module')
def runs_root(tmp_path_factory, digits_root):
    """Work directories of a teacher, a student alone, and one distilled, trained for two steps."""
    root = tmp_path_factory.mktemp('runs')
    for name in ('teacher', 'alone', 'distilled'):
        config = training(digits_root, root / name)
        config.merge_from_dict(
            {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'log_level': 'INFO'}
        )
        config.default_hooks.logger.interval = 1
        config.custom_hooks = []
        config.model = MODELS[name]
        if name == 'distilled':
            config.model.teacher = dict(config=MODELS['teacher'], untrained=True)
            config.custom_hooks = [dict(type='kd_dense.LossBalanceHook', steps=2)]
        with recorded(config, f'the_{name}.py', f'kd-dense train the_{name}.py'):
            train(config)
        config.dump(root / name / f'the_{name}.py')
        # AP of two steps is 0: a number to find again
        log = next((root / name).glob('*/vis_data/scalars.json'))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        lines[-1] |= {'coco/bbox_mAP': SCORES[name], 'coco/bbox_mAP_l': -1.0}
        log.write_text('\n'.join(map(json.dumps, lines)))
    return root


@pytest.fixture
def folders(runs_root):
    return [runs_root / name for name in ('distilled', 'teacher', 'alone')]


def test_roles_are_recognised_from_the_configs(folders):
    runs = read_runs(folders)
    assert [(run.name, run.role) for run in runs] == [
        ('teacher', 'teacher'), ('alone', 'alone'), ('distilled', 'distilled'),
    ]  # fmt: skip
    assert runs[0].why == 'the same network as the teacher of distilled'
    assert runs[1].why == 'the same network as the student of distilled'
    assert runs[2].why == 'it recorded that it was taught (teacher)'
    assert runs[2].validated_at == 'step 2' and runs[2].checkpoint.name == 'iter_2.pth'
    assert runs[2].balance['steps'] == 2


def test_a_teacher_is_known_by_its_checkpoint(folders, tmp_path):
    copied = tmp_path / 'copied'
    shutil.copytree(folders[0], copied)
    record = json.loads((copied / FILE).read_text())
    record['teachers']['teacher'] |= dict(
        checkpoint=str(folders[1] / 'iter_2.pth'), network='another'
    )
    (copied / FILE).write_text(json.dumps(record))
    teacher = read_runs([copied, folders[1]])[0]
    assert teacher.role == 'teacher' and teacher.why == 'copied was taught by its iter_2.pth'


def test_of_what_recorded_nothing_the_role_has_to_be_said(folders, tmp_path):
    copied = tmp_path / 'copied'
    shutil.copytree(folders[2], copied)
    (copied / FILE).unlink()
    (run,) = read_runs([copied])
    assert run.role == 'other' and 'say what it is with --roles' in run.why
    assert read_runs([copied], roles=['alone'])[0].role == 'alone'


def test_gains_and_the_gap_closed(folders):
    runs = read_runs(folders)
    metrics = known_metrics(runs)
    (found,) = compare(runs, metrics[0])
    assert metrics[0].title == 'AP' and found.run.name == 'distilled'
    assert found.gain == pytest.approx(20) and found.closed == pytest.approx(20 / 26.8)
    mean = compare([*runs, *read_runs([folders[0]], ['x'], ['alone'])], metrics[0])[0]
    assert mean.before == pytest.approx(30)  # of 20 and 40


def test_of_several_teachers_the_best_is_what_the_gap_is_to(folders):
    names = ['weak teacher', 'distilled', 'teacher', 'alone']
    roles = ['teacher', 'distilled', 'teacher', 'alone']
    runs = read_runs([folders[2], *folders], names, roles)
    assert compare(runs, known_metrics(runs)[0])[0].top == pytest.approx(46.8)
    evidence = gather(runs, 1, 0.01)
    page = Page(render(runs, evidence, 'python x', 'torch 1', show=1))
    assert 'teacher, the best teacher, 46.8' in page.words
    assert {'weak teacher', 'teacher', 'alone', 'distilled'} <= set(page.captions)


def test_a_teacher_below_its_student_has_no_gap(folders):
    runs = read_runs(folders, roles=['distilled', 'alone', 'teacher'])
    assert compare(runs, known_metrics(runs)[0])[0].closed is None


def test_names_roles_and_folders_that_do_not_fit(folders, tmp_path):
    with pytest.raises(SetupError, match='a name of its own with --names'):
        read_runs(folders, ['a', 'a', 'b'])
    with pytest.raises(SetupError, match='3 work directories and 1 --roles'):
        read_runs(folders, roles=['alone'])
    with pytest.raises(SetupError, match='holds no training'):
        read_runs([tmp_path])


# ---- the page ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page shows, and what it refers to."""

    VOID = ('meta', 'link', 'img', 'line', 'rect', 'circle', 'image', 'use', 'polyline')

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references, self.ids, self.rows, self.tags = [], set(), [], set()
        self._cell, self._skipped, self._open = False, 0, []
        self.words, self.captions = '', []
        self.feed(text)
        self.words = ' '.join(self.words.split())
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.tags.add(tag)
        self.references += [v for k, v in attributes if k in ('href', 'src', 'xlink:href')]
        self.references += re.findall(r'url\(([^)]*)\)', known.get('style') or '')
        self.ids |= {known['id']} if 'id' in known else set()
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self._cell = True
            self.rows[-1].append('')
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        assert self._open.pop() == tag
        self._cell = self._cell and tag not in ('td', 'th')

    def handle_data(self, data):
        if 'style' in self._open:
            assert 'url(' not in data and '@import' not in data
            return
        self.words += data
        if 'figcaption' in self._open:
            self.captions.append(data)
        if self._cell:
            self.rows[-1][-1] += data

    def row(self, *parts: str) -> list[str]:
        """The first row whose first cell holds the parts."""
        return next(row for row in self.rows if all(part in row[0] for part in parts))


def assert_self_contained(page: Page) -> int:
    """Nothing is loaded from elsewhere, and all pictures decode; returns how many there are."""
    assert not page.tags & {'script', 'iframe', 'object', 'embed'}
    count = 0
    for reference in page.references:
        if reference.startswith('data:image/'):
            data = base64.b64decode(reference.split(',', 1)[1])
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is not None
            count += 1
        elif reference != 'data:,':
            assert reference.startswith('#') and reference[1:] in page.ids, reference
    return count


def page_of(folders: list[Path], images: int = 4, threshold: float = 0.01, **options) -> tuple:
    runs = read_runs(folders, **options)
    evidence = gather(runs, images, threshold)
    return Page(render(runs, evidence, 'python x', 'torch 1', show=2)), runs, evidence


def test_the_page_holds_numbers_pictures_and_curves(folders, tmp_path):
    page, runs, evidence = page_of(folders)
    assert assert_self_contained(page) >= 2
    row = page.row('distilled', 'student')
    assert row[1] == '40.0+20.0' and row[-2:] == ['75%', 'step 2']
    assert page.row('teacher')[1] == '46.8'
    assert 'reaches 40.0 AP, the same student alone 20.0, the teacher 46.8.' in page.words
    parameters = sum(p.numel() for p in build_model(gfl(num_classes=10)).parameters())
    assert f'{parameters / 1e6:.2f} M' in page.words
    cost = evidence.costs['alone']
    assert cost.flops > 1e6 and cost.milliseconds > 0
    times = [evidence.costs[name].milliseconds for name in ('teacher', 'alone', 'distilled')]
    assert times[1] == times[2] != times[0]  # one network, with other weights
    assert {'zero', 'nine'} <= {row[0] for row in page.rows}
    assert "the student's own" in {row[0] for row in page.rows}
    assert 'loss_bbox' in page.words and 'imitation' in page.words
    assert 'On 4 of 6 validation images' in page.words
    assert 'there is one training of the student alone' in page.words
    assert 'kd-dense train the_distilled.py' in page.words and 'mmdet ' in page.words
    assert write_curves(tmp_path / 'curves.png', runs)
    assert write_sheet(tmp_path / 'sheet.png', runs, evidence, 2)
    for name in ('curves.png', 'sheet.png'):
        assert (tmp_path / name).read_bytes()[:4] == b'\x89PNG'


def test_names_are_escaped(folders):
    page, _, _ = page_of(folders, images=1, names=['<b>d</b>', 'a & b', '"c"'])
    assert '<b>d</b>' in page.words and 'a & b' in page.words
    assert_self_contained(page)


def test_a_page_without_predictions_says_so(folders):
    page, _, evidence = page_of(folders, images=0)
    assert assert_self_contained(page) == 0
    assert 'No model was run (--no-predict)' in page.words
    assert 'No times' in page.words and not evidence.results
    assert '40.0' in page.words


def test_missing_checkpoint_log_balance_and_teacher_are_told(folders, tmp_path):
    copies = [shutil.copytree(f, tmp_path / f.name) for f in (folders[0], folders[2])]
    (copies[0] / 'iter_2.pth').unlink()
    (copies[0] / 'loss_balance.json').unlink()
    next(copies[1].glob('*/vis_data/scalars.json')).unlink()
    page, _, evidence = page_of(copies)
    for text in (
        'No teacher run was given',
        'alone logged no validation',
        'alone has no log',
        'distilled has no loss_balance.json',
        f'distilled was not run: no checkpoint lies in {copies[0]}',
        'Needs a student alone and a distilled one, with their checkpoints',
        'are needed to say what distillation brought',
    ):
        assert text in page.words, text
    assert evidence.costs['distilled'].parameters == evidence.costs['alone'].parameters
    assert_self_contained(page)


def test_missing_data_is_told(folders):
    options = {'val_dataloader.dataset.data_root': '/nowhere'}
    page, _, _ = page_of(folders, options=options)
    assert 'No image was read: The data is not there: /nowhere/annotations/val.json' in page.words
    assert '40.0' in page.words


def test_a_page_of_a_single_run(folders):
    page, _, _ = page_of(folders[2:])
    assert 'alone' in page.words and 'No distilled run was given' in page.words
    assert_self_contained(page)


@pytest.fixture(scope='module')
def segmentation_folders(tmp_path_factory, digits_root):
    """Work directories of segmentors, written as a training leaves them."""
    root = tmp_path_factory.mktemp('segmentation')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('DIGITS_SEG_ROOT', str(digits_root))
        base = Config.fromfile(ROOT / 'configs' / 'digits/pspnet_r18-quarter_digits-seg.py')
    models = dict(teacher=segmentor(16, classes=11), alone=segmentor(classes=11))
    for model in models.values():
        model.pop('_scope_')
        model['data_preprocessor'].pop('size_divisor')
    models['distilled'] = dict(
        type='kd_dense.Distiller',
        student=models['alone'],
        teacher=dict(config=models['teacher'], untrained=True),
        losses=dict(pixel=dict(type='kd_dense.PixelWise')),
    )
    for seed, (name, miou) in enumerate(dict(teacher=70, alone=40, distilled=39).items()):
        folder = root / name
        (folder / '20260101' / 'vis_data').mkdir(parents=True)
        config = Config(base.to_dict())
        config.model = models[name]
        config.dump(folder / f'{name}.py')
        lines = [dict(loss=1.0, step=10, iter=10), dict(mIoU=miou, aAcc=80, mAcc=50, step=10)]
        log = folder / '20260101' / 'vis_data' / 'scalars.json'
        log.write_text('\n'.join(map(json.dumps, lines)))
        torch.manual_seed(seed)
        model = build_model(read_model_config(config.to_dict(), 'student'))
        torch.nn.init.normal_(model.decode_head.conv_seg.weight)
        prefix = 'student.' if name == 'distilled' else ''
        state = {prefix + key: value for key, value in model.state_dict().items()}
        config.work_dir = str(folder)
        with recorded(config, f'{name}.py'):
            pass
        torch.save(dict(state_dict=state, meta=dict(iter=10)), folder / 'iter_10.pth')
    return [root / name for name in models]


def test_the_page_of_segmentation(segmentation_folders, tmp_path):
    page, runs, evidence = page_of(segmentation_folders)
    assert assert_self_contained(page) > 10
    assert page.row('distilled', 'student')[1] == '39.0\N{MINUS SIGN}1.0'
    assert 'Distillation did not help here' in page.words
    assert 'gained and lost' in page.words and 'background' in page.words
    assert 'A pixel is right where the surest class is the annotated one' in page.words
    assert write_sheet(tmp_path / 'x.png', runs, evidence, 2)


def test_one_report_shows_one_task(segmentation_folders, folders):
    with pytest.raises(SetupError, match='alone segments'):
        read_runs([segmentation_folders[1], folders[1]])


# ---- the tool ------------------------------------------------------------------------------------


def tool(*arguments: object) -> subprocess.CompletedProcess:
    return run('tools/report.py', *arguments)


def test_the_tool_writes_the_page_and_its_pictures(folders, tmp_path):
    out = tmp_path / 'new' / 'page.html'
    done = tool(*folders, '--out', out, '--images', 2, '--show', 1, '--score-thr', 0.01)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in out.parent.iterdir()} == {
        'page.html', 'page_curves.png', 'page_pictures.png',
    }  # fmt: skip
    page = Page(out.read_text(encoding='utf-8'))
    assert_self_contained(page)
    assert 'tools/report.py' in page.words and f'mmdet {mmdet.__version__}' in page.words


def test_the_tool_says_what_is_wrong_in_a_sentence(tmp_path):
    done = tool(tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f'error: {tmp_path} holds no training')
