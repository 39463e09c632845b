"""Stores that are written, killed, gone on with, and refused."""

import errno
import json
import shutil
from collections import namedtuple

import pytest
import torch

from kd_dense import Ensemble, FrozenTeacher
from kd_dense.commands import store_teacher
from kd_dense.errors import SetupError
from kd_dense.store import Kept, Store
from kd_dense.store import shards as shard_files
from kd_dense.store import write as writing
from kd_dense.store.dataset import check_pipelines
from kd_dense.store.served import check_teacher, what_to_keep
from kd_dense.store.write import Writer
from tests.helpers import two_stage
from tests.helpers.models import free_port, gfl
from tests.helpers.processes import run_ranks
from tests.test_store.stores import LD, TEACHER, built, contents, manifest, training, write

pytestmark = pytest.mark.usefixtures('own_scope')
HINT = dict(imitation=dict(type='kd_dense.FeatureImitation', region='all'))
SHARDS = 4  # of a store of 12 pictures in 2 views


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(writing, 'MOST', 6)


@pytest.fixture(scope='module')
def whole(digits_root, tmp_path_factory):
    """A store of two views, written at once."""
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, 'MOST', 6)
        write(training(digits_root, folder), folder / 'store', views=2)
    return folder / 'store'


def test_a_store_holds_each_view_of_each_picture(whole):
    store = Store(whole)
    assert store.manifest.records == 24 and store.manifest.shards == SHARDS
    assert store.manifest.kept == Kept(('cls_logits', 'box_logits'), ('main', 'vlr'))
    assert store.bytes == sum(path.stat().st_size for path in whole.glob('*.safetensors'))
    assert not store.damaged()
    name = next(iter(store.numbers))
    one, other = store.record(name, 0), store.record(name, 1)
    assert one['mark'].tolist() != other['mark'].tolist()
    for record in (one, other):
        kept = len(record['at'])
        assert record['cls_logits'].shape == (kept, 10)
        assert record['box_logits'].shape == (kept, 36)


class Killed(BaseException):
    """In the place of a signal."""


@pytest.mark.parametrize(('moment', 'shard'), [('file', 0), ('journal', 2), ('between', 3)])
def test_a_kill_at_any_moment_leaves_what_goes_on_to_the_same(
    digits_root, tmp_path, monkeypatch, whole, moment, shard
):
    folder = tmp_path / 'store'
    config = training(digits_root, tmp_path)

    def killing(name):
        original = getattr(writing, name)

        def call(place, number, *args):
            index = number if isinstance(number, int) else int(place.stem)
            if index == shard:
                if moment == 'file':
                    place.with_name(f'.{place.name}.part').write_bytes(b'half')
                if moment == 'journal':
                    (folder / 'journal.jsonl').open('a').write('{"shard": 0, "by')
                raise Killed
            return original(place, number, *args)

        return call

    with monkeypatch.context() as patch, pytest.raises(Killed):
        name = 'note_shard' if moment == 'journal' else 'write_shard'
        patch.setattr(writing, name, killing(name))
        write(config, folder, views=2)
    assert not (folder / 'journal.jsonl').exists() or len(shard_files.noted_shards(folder)) == shard
    with pytest.raises(SetupError, match='is not written to its end'):
        Store(folder)
    write(config, folder, views=2)
    assert contents(folder) == contents(whole)
    assert not list(folder.glob('.*.part'))


def test_files_that_are_lost_or_cut_short_are_written_again(digits_root, tmp_path, whole):
    folder = shutil.copytree(whole, tmp_path / 'store')
    (folder / '000001.safetensors').unlink()
    cut = folder / '000002.safetensors'
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(SetupError, match='2 of its 4 files are missing'):
        Store(folder)
    write(training(digits_root, tmp_path), folder, views=2)
    assert contents(folder) == contents(whole)


def test_two_ranks_write_what_one_does(digits_root, tmp_path, whole):
    config = training(digits_root, tmp_path)
    file = tmp_path / 'config.py'
    config.dump(file)
    folder = tmp_path / 'store'
    words = ('tools/store_teacher.py', file, '--to', folder, '--views', 2)
    done = run_ranks(2, *words, port=free_port())
    assert done.returncode == 0, done.stderr
    assert contents_of_records(folder) == contents_of_records(whole)


def contents_of_records(folder):
    """All records, however many stand in a file."""
    store = Store(folder)
    return [
        (name, view, key, value.tolist())
        for name in store.numbers
        for view in range(store.manifest.views)
        for key, value in store.record(name, view).items()
    ]


@pytest.mark.parametrize(
    ('options', 'changes', 'told'),
    [
        (dict(views=3), {}, '--views'),
        (dict(views=2, seed=1), {}, '--seed'),
        (dict(views=2, dtype='float32'), {}, 'what is kept'),
        (dict(views=2, whole=True), {}, 'what is kept'),
        (dict(views=2), {'model.losses.vlr.weight': 0}, 'what is kept'),
        (
            dict(views=2),
            {'model.student.data_preprocessor.mean': [0.0, 0.0, 0.0]},
            "the student's data preprocessor",
        ),
        (dict(views=2), {'train_dataloader.dataset.pipeline.3.prob': 0.4}, 'the pipeline'),
        (dict(views=2), {'train_dataloader.dataset.indices': 10}, 'the training images'),
        (dict(views=2), {'model.teacher.scale': 2}, 'the scale of its images'),
    ],
)
def test_what_was_begun_otherwise_is_not_gone_on_with(
    digits_root, tmp_path, whole, options, changes, told
):
    before = contents(whole)
    with pytest.raises(SetupError, match=f'begun with other values of .*{told}'):
        write(training(digits_root, tmp_path, **changes), whole, **options)
    assert contents(whole) == before


def test_what_a_teacher_says_of_larger_images_is_stored(digits_root, tmp_path, whole):
    config = training(digits_root, tmp_path, **{'model.teacher.scale': 2})
    write(config, tmp_path / 'store', views=2)
    usual, larger = Store(whole), Store(tmp_path / 'store')
    assert larger.manifest.info.head == 'GFLHead at scale 2'
    name = next(iter(usual.numbers))
    one, other = (each.record(name, 0) for each in (usual, larger))
    assert torch.equal(one['at'], other['at']) and torch.equal(one['mark'], other['mark'])
    assert not torch.equal(one['box_logits'], other['box_logits'])


def test_another_teacher_is_not_gone_on_with(digits_root, tmp_path, whole):
    config = training(digits_root, tmp_path)
    distiller = built(config)
    torch.save(dict(state_dict=distiller.teacher.model.state_dict()), tmp_path / 'other.pth')
    config.model.teacher = dict(TEACHER, checkpoint=str(tmp_path / 'other.pth'), untrained=False)
    with pytest.raises(SetupError, match="begun with other values of the teacher's weights"):
        write(config, whole, views=2)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    digits_root, tmp_path, monkeypatch
):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(writing.shutil, 'disk_usage', lambda _: usage(10**6, 0, 10**4))
    with pytest.raises(SetupError, match=r'would take \d.* kB more, and .* has 9.5 kB'):
        write(training(digits_root, tmp_path), tmp_path / 'store', whole=True)
    assert not contents(tmp_path / 'store')


def test_a_disk_that_becomes_full_leaves_what_was_written(
    digits_root, tmp_path, monkeypatch, whole
):
    folder = tmp_path / 'store'
    config = training(digits_root, tmp_path)
    original = shard_files.save_file

    def full(tensors, path):
        if '000002' in str(path):
            path.write_bytes(b'half')
            raise OSError(errno.ENOSPC, 'No space left on device')
        original(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(shard_files, 'save_file', full)
        with pytest.raises(SetupError, match=r'is full; about .* are missing. What is written'):
            write(config, folder, views=2)
    assert sorted(path.name for path in folder.glob('*.safetensors')) == [
        '000000.safetensors',
        '000001.safetensors',
    ]
    assert not list(folder.glob('.*.part'))
    write(config, folder, views=2)
    assert contents(folder) == contents(whole)


def test_damage_is_found(tmp_path, whole, capsys):
    folder = shutil.copytree(whole, tmp_path / 'store')
    file = folder / '000001.safetensors'
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(SetupError, match=r'^000001\.safetensors of .* hold something else'):
        store_teacher.verify(folder)
    store_teacher.verify(whole)
    assert 'all 4 files are as they were written' in capsys.readouterr().out


@pytest.mark.parametrize('content', ['', '{', '{"format": 1}', '{"format": 99}', '[]'])
def test_a_manifest_that_is_none(tmp_path, whole, content):
    folder = shutil.copytree(whole, tmp_path / 'store')
    (folder / 'manifest.json').write_text(content)
    with pytest.raises(SetupError, match=r'Write the store anew'):
        Store(folder)


def test_there_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no store'):
        Store(tmp_path)


# -- pipelines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'transform',
    [
        dict(type='CachedMosaic', img_scale=(64, 64)),
        dict(type='RandomChoice', transforms=[[dict(type='CachedMixUp', img_scale=(64, 64))]]),
    ],
    ids=['plain', 'inside'],
)
def test_pipelines_that_mix_pictures_are_refused(digits_root, tmp_path, transform):
    config = training(digits_root, tmp_path)
    config.train_dataloader.dataset.pipeline.insert(2, transform)
    with pytest.raises(SetupError, match=r'Cached.* in the pipeline .* needs other pictures'):
        write(config, tmp_path / 'store')


def test_data_sets_that_mix_pictures_are_refused():
    MultiImageMixDataset = type('MultiImageMixDataset', (), {})
    outer = namedtuple('outer', 'dataset')(MultiImageMixDataset())
    for dataset in (MultiImageMixDataset(), outer):
        with pytest.raises(SetupError, match='makes one picture of several'):
            check_pipelines(dataset)


def test_a_transform_with_a_memory_is_found_by_looking_twice(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    config.custom_imports.imports.append('tests.test_store.remembering')
    from tests.test_store import remembering  # noqa: F401 - registers the transform

    config.train_dataloader.dataset.pipeline.insert(2, dict(type='Remembering'))
    with pytest.raises(SetupError, match='comes out of the pipeline otherwise'):
        write(config, tmp_path / 'store')


def test_pictures_that_the_pipeline_drops(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    drop = dict(type='FilterAnnotations', min_gt_bbox_wh=(1e4, 1e4), keep_empty=True)
    config.train_dataloader.dataset.pipeline.insert(2, drop)
    with pytest.raises(SetupError, match='drops each of the 12 pictures'):
        write(config, tmp_path / 'store')


def test_batches_that_are_changed_as_a_whole_are_refused(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    resize = dict(type='BatchSyncRandomResize', random_size_range=(96, 128), size_divisor=32)
    config.model.student.data_preprocessor.batch_augments = [resize]
    with pytest.raises(SetupError, match='batch_augments'):
        write(config, tmp_path / 'store')


def test_a_picture_that_stands_twice_is_refused(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    own = config.train_dataloader.dataset
    config.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[own, own])
    with pytest.raises(SetupError, match='stands twice in the training images'):
        write(config, tmp_path / 'store')


# -- what is kept, of whom -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('losses', 'options', 'kept'),
    [
        (LD, {}, Kept(('cls_logits', 'box_logits'), ('main', 'vlr'))),
        (LD, dict(whole=True), Kept(('cls_logits', 'box_logits'))),
        (LD, dict(best=9), Kept(('cls_logits', 'box_logits'), ('main', 'vlr'), 9)),
        (LD | HINT, {}, Kept(('features', 'cls_logits', 'box_logits'), ('main', 'vlr'))),
        (LD, dict(keep=['features']), None),
        (HINT, {}, Kept(('features',))),
        (dict(s=dict(type='kd_dense.SoftTargets')), {}, Kept(('cls_logits',))),
        (dict(s=dict(type='kd_dense.SoftTargets')), dict(best=7), Kept(('cls_logits',), (), 7)),
        (
            dict(s=dict(type='kd_dense.SoftTargets', region='general')),
            {},
            Kept(('cls_logits', 'box_logits')),
        ),
    ],
)
def test_what_the_losses_read_is_kept(digits_root, tmp_path, losses, options, kept):
    distiller = built(training(digits_root, tmp_path, losses))
    kept = kept or Kept(('features', 'cls_logits', 'box_logits'), ('main', 'vlr'))
    found = what_to_keep(distiller.teacher, dict(distiller.losses.items()), **options)
    assert found == kept


@pytest.mark.parametrize(
    ('losses', 'options', 'told'),
    [
        ({}, {}, 'nothing to keep'),
        (HINT, dict(keep=['seg_logits']), '--keep seg_logits: this teacher has no such maps'),
        (HINT, dict(best=3), '--best keeps class scores'),
        (
            dict(cross=dict(type='kd_dense.CrossHead', part='cls')),
            {},
            r"losses.cross \(CrossHead\) runs layers of the teacher's",
        ),
    ],
)
def test_what_cannot_be_kept(digits_root, tmp_path, losses, options, told):
    config = training(digits_root, tmp_path)
    config.model.losses = losses
    distiller = built(config)
    with pytest.raises(SetupError, match=told):
        what_to_keep(distiller.teacher, dict(distiller.losses.items()), **options)


def test_proposals_cannot_be_kept():
    from kd_dense.registry import MODELS

    distiller = MODELS.build(two_stage.distiller())
    with pytest.raises(SetupError, match="scores the student's proposals, which are others"):
        what_to_keep(distiller.teacher, dict(distiller.losses.items()))


def test_whose_word_changes_is_not_stored(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    check_teacher(built(config).teacher)
    check_teacher(Ensemble(dict(a=TEACHER, b=TEACHER)))
    for teacher in (
        dict(type='kd_dense.EMATeacher'),
        dict(type='kd_dense.Ensemble', members=dict(a=TEACHER), pick='random'),
    ):
        config.model.teacher = dict(_delete_=True, **teacher)
        config.model.teacher.pop('_delete_')
        with pytest.raises(SetupError, match='does not say the same of a picture'):
            check_teacher(built(config).teacher)
    with pytest.raises(SetupError, match='knows other classes'):
        check_teacher(FrozenTeacher(gfl(), untrained=True, classes='by name'))


def test_an_ensemble_is_stored_as_it_is_averaged(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    config.model.teacher = dict(type='kd_dense.Ensemble', members=dict(a=TEACHER, b=TEACHER))
    write(config, tmp_path / 'store')
    single = training(digits_root, tmp_path)
    write(single, tmp_path / 'single')
    ours, theirs = (contents_of_records(tmp_path / name) for name in ('store', 'single'))
    for (_, _, key, a), (_, _, _, b) in zip(ours, theirs, strict=True):
        if key in ('cls_logits',):  # of twice the same member, up to rounding
            torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=2e-3, atol=2e-3)


def test_the_manifest_says_what_a_reader_asks(whole):
    said = manifest(whole)
    assert said['images'] == 12 and said['views'] == 2
    assert said['info']['strides'] == [8, 16, 32]
    assert said['channels'] == dict(cls_logits=[10] * 3, box_logits=[36] * 3)
    assert len(said['weights']) == 64
    assert str(whole.parent) not in json.dumps(said)
    names = (whole / 'images.txt').read_text().splitlines()
    assert len(names) == 12 and all(name.startswith('VOC2007/JPEGImages/') for name in names)


def test_the_writer_leaves_no_trace_of_training(digits_root, tmp_path):
    config = training(digits_root, tmp_path)
    distiller = built(config)
    distiller.load_teacher()
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    kept = what_to_keep(distiller.teacher, dict(distiller.losses.items()))
    writer = Writer(distiller, distiller.teacher, kept, tmp_path / 'store', say=lambda _: None)
    from mmengine.registry import DATASETS

    data = config.train_dataloader.dataset
    writer.write(writer.prepare(DATASETS.build(data), data, views=1, seed=0))
    assert all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())
