"""Trainings by what is stored."""

import copy
import json
import shutil
from collections import Counter

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

from kd_dense.chain import read_chain
from kd_dense.chain.fingerprint import fingerprint, is_whole
from kd_dense.chain.training import Means, write_config
from kd_dense.errors import SetupError
from kd_dense.hosts import seeded_rng
from kd_dense.store import StoredViews, read_from_store, with_stored_views
from kd_dense.teachers import StoredTeacher
from kd_dense.views import Batch
from tests.helpers.models import gfl, raw_batch
from tests.helpers.processes import run
from tests.helpers.trainings import shapes_config, state, train_apart
from tests.test_store.stores import built, contents, training, write

pytestmark = pytest.mark.usefixtures('own_scope')


@pytest.fixture(scope='module')
def store(digits_root, tmp_path_factory):
    """A store of three views."""
    folder = tmp_path_factory.mktemp('reading')
    write(training(digits_root, folder), folder / 'store', views=3, dtype='float32')
    return folder / 'store'


def stored(root, work_dir, store, **changes) -> Config:
    """A training that reads it."""
    config = training(root, work_dir, **changes)
    read_from_store(config, str(store))
    return with_stored_views(config)


def losses_of(config, items):
    """The distillation losses of some pictures."""
    with seeded_rng(0):
        distiller = built(config)
        distiller.init_weights()
    distiller.train()
    data = distiller.data_preprocessor(pseudo_collate(items), True)
    logs = distiller(**data, mode='loss')
    return {name: float(value) for name, value in logs.items() if name.startswith('loss_kd')}


def test_the_losses_are_those_of_the_running_teacher(digits_root, tmp_path, store):
    config = stored(digits_root, tmp_path, store)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    dataset.full_init()
    for index in range(3):  # one by one: live, the larger pictures of a batch decide its padding
        items = [dataset[index]]
        found = losses_of(config, copy.deepcopy(items))
        expected = losses_of(training(digits_root, tmp_path), items)  # of the same view
        assert all(expected.values())
        assert found == pytest.approx(expected, rel=1e-5)


def test_all_views_of_a_picture_are_shown_and_each_is_always_the_same(digits_root, tmp_path, store):
    dataset = DATASETS.build(stored(digits_root, tmp_path, store).train_dataloader.dataset)
    dataset.full_init()
    assert len(dataset) == 12 and dataset.metainfo['classes'][0] == 'zero'
    seen, marks = Counter(), {}
    for _ in range(20):
        item = dataset[5]
        what = item['data_samples'].stored.what
        seen[what] += 1
        picture = marks.setdefault(what, item['inputs'])
        assert torch.equal(picture, item['inputs'])
        assert not item['data_samples'].stored.differs
    assert len(seen) == 3


def test_a_training_with_weights_0_is_the_plain_one_on_these_views(digits_root, tmp_path, store):
    """Without the losses nothing of the store touches the student."""
    config = stored(digits_root, tmp_path / 'a', store)
    for loss in config.model.losses.values():
        loss.weight = 0
    plain = copy.deepcopy(config)
    plain.model = gfl(num_classes=10)
    plain.work_dir = str(tmp_path / 'b')
    for each in (config, plain):
        each.train_cfg.val_interval = 100
        Runner.from_cfg(each).train()
    ours, theirs = (state(tmp_path / name / 'iter_4.pth')['state_dict'] for name in 'ab')
    for name, value in theirs.items():
        assert torch.equal(ours[f'student.{name}'], value), name


def test_a_training_by_the_command_needs_no_teacher(digits_root, tmp_path, store):
    config = training(digits_root, tmp_path / 'run')
    config.model.teacher = dict(config='nowhere.py', checkpoint='nowhere.pth')
    config.train_dataloader.num_workers = 1
    config.train_cfg.val_interval = 100
    done = train_apart(config, '--stored', str(store), '--no-check')
    assert done.returncode == 0, done.stderr
    assert 'Teacher read from' in done.stdout + done.stderr
    assert (tmp_path / 'run' / 'iter_4.pth').is_file()
    said = json.loads((tmp_path / 'run' / 'run.json').read_text())
    assert said['teachers']['teacher']['stored'] == str(store)


def test_segmentors(tmp_path):
    config = Config(shapes_config(tmp_path / 'data', tmp_path / 'run'))
    config.train_dataloader.dataset.pipeline[2:2] = [dict(type='RandomFlip', prob=0.5)]
    config.train_cfg.val_interval = 100
    write(config, tmp_path / 'store', views=2)
    live = copy.deepcopy(config)
    read_from_store(config, str(tmp_path / 'store'))
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(with_stored_views(config).train_dataloader.dataset)
        dataset.full_init()
        items = [dataset[index] for index in range(3)]
        both = [copy.deepcopy(each) for each in (config, live)]
        for each in both:
            del each.model.losses['holistic']  # which runs with its own optimizer alone
        found, expected = (losses_of(each, copy.deepcopy(items)) for each in both)
        assert found == pytest.approx(expected, rel=1e-2)
        Runner.from_cfg(config).train()  # with its critic


# -- what is refused -------------------------------------------------------------------------------


def first_item(config):
    dataset = DATASETS.build(config.train_dataloader.dataset)
    dataset.full_init()
    return dataset[0]


def test_a_picture_that_was_changed(digits_root, tmp_path, store):
    root = shutil.copytree(digits_root, tmp_path / 'data')
    config = stored(root, tmp_path, store)
    item = first_item(config)
    path = item['data_samples'].img_path
    picture = cv2.imread(path)
    cv2.imwrite(path, picture // 2)
    with pytest.raises(SetupError, match='its pixels are not what the teacher saw'):
        losses_of(config, [first_item(config)])


def test_boxes_that_were_changed(digits_root, tmp_path, store):
    root = shutil.copytree(digits_root, tmp_path / 'data')
    file = root / 'annotations' / 'train.json'
    said = json.loads(file.read_text())
    for each in said['annotations']:
        each['bbox'][2] += 1
    file.write_text(json.dumps(said))
    config = stored(root, tmp_path, store)
    with pytest.raises(SetupError, match='its boxes are not what the teacher saw'):
        losses_of(config, [first_item(config)])


def test_pictures_that_are_not_there(digits_root, tmp_path, store):
    root = shutil.copytree(digits_root, tmp_path / 'data')
    file = root / 'annotations' / 'train.json'
    said = json.loads(file.read_text())
    said['images'][3]['file_name'] = 'other.jpg'
    file.write_text(json.dumps(said))
    with pytest.raises(SetupError, match=r'does not hold .*other\.jpg of the training images'):
        first_item(stored(root, tmp_path, store))


def test_another_pipeline(digits_root, tmp_path, store):
    changed = {'train_dataloader.dataset.pipeline.3.prob': 0.4}
    with pytest.raises(SetupError, match='written with another pipeline'):
        first_item(stored(digits_root, tmp_path, store, **changed))


def test_another_class(digits_root, tmp_path, store):
    folder = shutil.copytree(store, tmp_path / 'store')
    said = json.loads((folder / 'manifest.json').read_text())
    said['classes'] = ['nought', *(f'c{index}' for index in range(9))]
    (folder / 'manifest.json').write_text(json.dumps(said))
    config = stored(digits_root, tmp_path / 'run', folder)
    with pytest.raises(SetupError, match='class 0 is'):
        Runner.from_cfg(config).train()


@pytest.mark.parametrize(
    ('changed', 'told'),
    [
        ({'model.student.data_preprocessor.mean': [0, 0, 0]}, 'mean is .* not'),
        ({'model.student.data_preprocessor.pad_size_divisor': 64}, 'pad_divisor is 64, not 32'),
        ({'model.student.bbox_head.reg_max': 7}, 'over 9 bins, the student'),
        (
            {'model.losses.cls.region': 'box'},
            r"losses\.cls: SoftTargets compares in region 'box', and the store .* holds 'main'",
        ),
        (
            {'model.losses': dict(i=dict(type='kd_dense.PearsonDistillation'))},
            'holds no features; it holds cls_logits, box_logits. Write it with `--keep features`',
        ),
        (
            {'model.losses': dict(b=dict(type='kd_dense.BoxIoUDistillation'))},
            r"losses\.b: BoxIoUDistillation compares in region 'all'",
        ),
    ],
)
def test_students_and_losses_that_it_cannot_serve(digits_root, tmp_path, store, changed, told):
    config = training(digits_root, tmp_path)
    read_from_store(config, str(store))
    if 'model.losses' in changed:
        config.model.losses = changed['model.losses']
    else:
        config.merge_from_dict(changed)
    with pytest.raises(SetupError, match=told):
        built(config).load_teacher()


def test_pictures_that_come_without_records(digits_root, tmp_path, store):
    config = training(digits_root, tmp_path)
    read_from_store(config, str(store))
    with pytest.raises(SetupError, match='come without what it said of them'):
        losses_of(config, [first_item(config)])


def test_it_has_no_model_to_predict_or_inherit_with(digits_root, tmp_path, store):
    teacher = StoredTeacher(str(store))
    assert teacher.model is None and copy.deepcopy(teacher) is teacher
    with pytest.raises(SetupError, match='makes no predictions'):
        teacher.predictor()
    config = training(digits_root, tmp_path)
    read_from_store(config, str(store))
    config.model.inherit = ['neck']
    with pytest.raises(SetupError):
        built(config).load_teacher()
    with pytest.raises(SetupError, match='holds no features'):
        teacher.channels(0)
    distiller = built(training(digits_root, tmp_path))
    batch = Batch(torch.zeros(1, 3, 64, 64), [])
    with pytest.raises(SetupError, match='come without'):
        teacher.view(batch, distiller._view(distiller.student, batch))


def test_several_stored_teachers(digits_root, tmp_path, store):
    config = training(digits_root, tmp_path)
    other = shutil.copytree(store, tmp_path / 'other')
    named = {
        name: dict(type='kd_dense.StoredTeacher', path=str(path))
        for name, path in dict(a=store, b=other).items()
    }
    del config.model['teacher']
    config.model.teachers = named
    with pytest.raises(SetupError, match='in different stores'):
        with_stored_views(config)
    with pytest.raises(SetupError, match='with one teacher; found a, b'):
        read_from_store(config, str(store))
    config.model.teachers.b.path = str(store)
    wrapped = with_stored_views(with_stored_views(config)).train_dataloader.dataset
    assert wrapped.type == 'kd_dense.StoredViews' and wrapped.dataset.type == 'CocoDataset'


def test_a_store_may_be_of_wrapped_data_sets(digits_root, tmp_path, store):
    config = stored(digits_root, tmp_path, store)
    inner = config.train_dataloader.dataset.dataset
    repeated = dict(type='RepeatDataset', times=2, dataset=inner)
    dataset = StoredViews(repeated, str(store))
    dataset.full_init()
    assert len(dataset) == 24 and dataset[13]['data_samples'].stored.what
    assert dataset.get_data_info(13)['img_id'] == dataset.get_data_info(1)['img_id']


def test_a_chain_trains_anew_when_the_store_is_another(digits_root, tmp_path, store):
    config = training(digits_root, tmp_path)
    folder = shutil.copytree(store, tmp_path / 'store')
    read_from_store(config, str(folder))
    before = fingerprint(config, {})
    assert fingerprint(config, {}) == before and is_whole(config)
    said = json.loads((folder / 'manifest.json').read_text())
    (folder / 'manifest.json').write_text(json.dumps(said | dict(seed=1)))
    assert fingerprint(config, {}) != before
    (folder / 'manifest.json').unlink()
    assert not is_whole(config)


def test_it_is_not_asked_of_images_that_it_does_not_know(digits_root, tmp_path, store):
    """A validation set, say."""
    distiller = built(stored(digits_root, tmp_path, store))
    data = distiller.data_preprocessor(raw_batch(), False)
    assert distiller.losses_without_labels(**data) == {}


def test_a_chain_stores_what_a_teacher_says_once_for_all_its_seeds(digits_root, tmp_path):
    """And the result is that of the running teacher, up to rounding."""
    config = training(digits_root, tmp_path / 'run')
    config.train_cfg.val_interval = 100
    config.train_dataloader.dataset.pipeline[2:4] = []  # no random numbers: views are the images
    config.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
    file = tmp_path / 'config.py'
    config.dump(file)
    chain_file = tmp_path / 'chain.py'
    chain_file.write_text(
        f"""
folder = {str(tmp_path / 'chain')!r}
seeds = [0, 1]
_taught = dict(config={str(file)!r})
stages = dict(live=_taught, read=dict(_taught, stored=1))
"""
    )
    chain = read_chain(chain_file)
    jobs = {(job.stage.name, job.run_seed): job for job in chain.jobs}
    assert jobs['read', 0].store == jobs['read', 1].store
    assert jobs['read', 0].fingerprint != jobs['live', 0].fingerprint
    both = prepared(jobs['live', 0], jobs['read', 0])
    done = [run('-m', *Means().command(each)[2:]) for each in both]
    assert [each.returncode for each in done] == [0, 0], done[-1].stderr
    ours, theirs = (
        state(each.folder / 'iter_4.pth')['state_dict'] for each in (jobs['read', 0], both[0])
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)
    (folder,) = (tmp_path / 'chain' / 'stores').iterdir()
    before = contents(folder)
    done = run('-m', *Means().command(*prepared(jobs['read', 1]))[2:])
    assert done.returncode == 0 and contents(folder) == before


def prepared(*jobs):
    """Jobs whose configs are written."""
    for job in jobs:
        job.folder.mkdir(parents=True)
        write_config(job)
    return jobs
