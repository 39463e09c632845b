"""Wrong arguments and places: each row is a tool, its arguments, and the words it ends in."""

import errno
import json
import re
import shutil
from collections.abc import Callable

import pytest
import torch
from filelock import FileLock

from kd_dense.errors import SetupError
from kd_dense.hosts.loading import load_from_url
from tests.faults.world import World, call, train

S = 'run/iter_2_student.pth'
DISTIL = ('alone.py', '--teacher', 'teacher.py', '--checkpoint', 'teacher.pth', '--dry-run')
BESIDE = ('--unlabelled', 'digits/VOC2007')
ARGUMENTS = [
    ('train', (), r'the following arguments are required: config'),
    ('train', ('nope.py',), r'There is no config nope\.py \(looked from'),
    ('train', ('digits',), r'There is no config digits'),
    ('train', ('seg.py', '--auto-scale-lr'), r'--auto-scale-lr needs to know which batch size'),
    ('train', ('ld.py', '--launcher', 'slurm'), r'--launcher slurm is for .*SLURM_PROCID'),
    ('train', ('ld.py', '--launcher', 'pytorch'), r'--launcher pytorch is for .*RANK'),
    ('train', ('ld.py', '--launcher', 'mpi'), r'--launcher mpi is for .*OMPI_COMM_WORLD'),
    ('train', ('ld.py', '--launcher', 'nope'), r"invalid choice: 'nope'"),
    ('train', ('ld.py', '--work-dir', 'ld.py'), r'ld\.py is a file, and a folder was expected'),
    ('train', ('ld.py', '--work-dir', 'ld.py/x'), r'ld\.py/x is a file, and a folder was expected'),
    ('train', ('ld.py', '--work-dir', '/sys/x'), r'/sys/x.*(Choose|Name|Change)'),
    ('train', ('ld.py', '--work-dir', 'x' * 300), r'The name .* is too long for the file system'),
    ('train', ('ld.py', '--cfg-options', 'foo'), r'--cfg-options takes KEY=VALUE; found foo'),
    ('train', ('ld.py', '--cfg-options', '=3'), r'--cfg-options takes KEY=VALUE; found =3'),
    ('train', ('ld.py', '--cfg-options', 'load_from=[1,(2'), r'load_from=\[1,\(2 cannot be read'),
    ('train', ('alone.py', '--unlabelled', 'rest'), r'This GFL trains without a teacher'),
    ('train', ('ld.py', '--unlabelled', 'nope'), r'no folder of unlabelled images nope \(looked'),
    ('train', ('ld.py', '--unlabelled', 'digits/annotations'), r'holds none: no file in it ends'),
    ('train', ('ld.py', '--unlabelled', 'rest'), r'no unlabelled images: the labelled ones are'),
    ('train', ('ld.py', *BESIDE, '--unlabelled-ratio', '0'), r'ratio of unlabelled images is 0'),
    ('train', ('ld.py', *BESIDE, '--unlabelled-ratio', 'x'), r'unlabelled-ratio: invalid float'),
    ('test', ('ld.py',), r'Name a checkpoint to evaluate'),
    ('test', ('ld.py', 'nope.pth'), r'checkpoint of the student was not found: nope\.pth'),
    ('test', ('ld.py', 'digits'), r'checkpoint of the student was not found: digits'),
    ('test', ('ld.py', 'run/run.json'), r'run\.json cannot be read: it is no file that torch'),
    ('test', ('ld.py', 'http://localhost:9/a.pth'), r'without encryption'),
    ('test', ('ld.py', S, '--work-dir', 'ld.py'), r'ld\.py is a file, and a folder'),
    ('check', ('alone.py',), r'trains a GFL without a teacher: there is nothing to check'),
    ('check', ('ld.py', '--steps', '-4'), r'--steps: it takes 0 or more; found -4'),
    ('check', ('ld.py', '--validate', '-1'), r'--validate: it takes 0 or more; found -1'),
    ('check', ('ld.py', '--steps', 'x'), r'argument --steps: invalid'),
    ('check', ('ld.py', '--checkpoint', 'nope.pth', '--steps', '0'), r'nope\.pth'),
    ('export', ('ld.py',), r'required: checkpoint'),
    ('export', ('ld.py', S, '--name', '../../evil'), r"--name: it takes a name without folders"),
    ('export', ('ld.py', S, '--name', '/tmp/evil'), r"--name: it takes a name without folders"),
    ('export', ('ld.py', S, '--name', '..'), r"--name: it takes a name without folders"),
    ('export', ('ld.py', S, '--name', ''), r"--name: it takes a name without folders"),
    ('export', ('ld.py', S, '--size', '0', '0'), r'--size: it takes 1 or more; found 0'),
    ('export', ('ld.py', S, '--tolerance', '-1'), r'--tolerance: it takes a number from 0 to 1'),
    ('export', ('ld.py', S, '--tolerance', 'nan'), r'--tolerance: it takes a number from 0 to 1'),
    ('export', ('ld.py', S, '--out', 'ld.py'), r'ld\.py is a file, and a folder was expected'),
    ('export', ('ld.py', 'nope.pth'), r'checkpoint of the student was not found: nope\.pth'),
    ('export', ('ld.py', S, '--onnx', '--image', 'ld.py'), r'ld\.py.*(image|picture)'),
    ('export', ('ld.py', S, '--onnx', '--image', 'nope.jpg'), r'nope\.jpg'),
    ('report', (), r'the following arguments are required: work_dirs'),
    ('report', ('nowhere',), r'nowhere holds no training'),
    ('report', ('digits',), r'digits holds no training'),
    ('report', ('ld.py',), r'ld\.py.*(holds no training|folder was expected)'),
    ('report', ('run', '--score-thr', '7'), r'--score-thr: it takes a number from 0 to 1; found 7'),
    ('report', ('run', '--score-thr', '-1'), r'--score-thr: it takes a number from 0 to 1'),
    ('report', ('run', '--images', '0'), r'--images: it takes 1 or more; found 0'),
    ('report', ('run', '--show', '0'), r'--show: it takes 1 or more; found 0'),
    ('report', ('run', 'run'), r'give each a name of its own with --names'),
    ('report', ('run', '--roles', 'teacher', 'alone'), r'1 work directories and 2 --roles'),
    ('report', ('run', '--no-predict', '--out', 'digits'), r'digits is a folder, and a file was'),
    ('report', ('run', '--no-predict', '--out', 'ld.py/x.html'), r'ld\.py is a file, and a folder'),
    ('plot', ('nowhere',), r'No training was logged in nowhere .*Name work directories'),
    ('plot', ('digits',), r'No training was logged in digits'),
    ('plot', ('run', 'run'), r'Give each training a name of its own with --names'),
    ('plot', ('run', '--keys', 'nope'), r'--keys: nope was never logged; there are '),
    ('plot', ('run', '--out', 'x.nope'), r'That kind of file cannot be written .*\.png'),
    ('plot', ('run', '--out', 'ld.py/x.png'), r'ld\.py is a file, and a folder was expected'),
    ('make-digits', (), r'the following arguments are required: out'),
    ('make-digits', ('d', '--train', '0'), r'--train: it takes 1 or more; found 0'),
    ('make-digits', ('d', '--val', '0'), r'--val: it takes 1 or more; found 0'),
    ('make-digits', ('d', '--seed', '-1'), r'--seed: it takes 0 or more; found -1'),
    ('make-digits', ('d', '--digits', '7', '2'), r'digits must be 0 or more, low end first'),
    ('make-digits', ('run',), r'run exists and is not a dataset of digits'),
    ('make-digits', ('digits', '--train', '9'), r'other settings .*--force'),
    ('make-digits', ('ld.py',), r'ld\.py'),
    ('benchmark', ('--rounds', '0'), r'--rounds: it takes 1 or more; found 0'),
    ('benchmark', ('--images', '0'), r'--images: it takes 1 or more; found 0'),
    ('benchmark', ('--size', '1'), r'--size: it takes 32 or more; found 1'),
    ('specialists', ('ld.py', S), r"ld\.py distils, and the configs .* Name that of the student"),
    ('distill', ('alone.py',), r'the following arguments are required: --teacher, --checkpoint'),
    ('distill', ('nope.py', *DISTIL[1:]), r'nope\.py'),
    ('distill', (*DISTIL, '--recipe', 'ldd'), r"There is no recipe 'ldd'; choose auto, .*chen2017"),
    ('distill', (*DISTIL, '--recipe', 'nope.py'), r'There is no recipe nope\.py'),
    ('distill', (*DISTIL, '--recipe', 'ld.py'), r'ld\.py is no recipe: it has no `losses`'),
    ('distill', (*DISTIL, '--recipe', 'structured'), r'reads seg_logits'),
    ('distill', (*DISTIL, '--data', 'nowhere'), r'There is no folder .*nowhere \(--data\)'),
    ('distill', (*DISTIL, '--data', 'run'), r'run has neither form of data'),
    ('distill', (*DISTIL, '--data', 'digits', '--classes', 'onne'), r"has no class 'onne'; it has"),
    ('distill', (*DISTIL, '--cfg-options', 'model.losses.ldd.weight=1'),
     r'losses\.ldd has no `type`'),
    ('distill', (*DISTIL, '--cfg-options', 'model.losses.ld.weight=-1'), r'it must be a finite'),
    ('distill', (*DISTIL, '--cfg-options', 'train_dataloder.batch_size=1'),
     r'Did you mean `train_dataloader`'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('tool', 'arguments', 'words'), ARGUMENTS, ids=[' '.join([r[0], *r[1]])[:70] for r in ARGUMENTS]
)
def test_arguments(world, tool, arguments, words):
    files = {path for path in world.folder.parent.rglob('*')}
    done = call(world, tool, *arguments)
    assert done.code in (1, 2), done.text
    assert 'Traceback' not in done.text
    assert re.search(words, ' '.join(done.text.split())), done.text
    new = {path for path in world.folder.parent.rglob('*')} - files
    if tool == 'export':
        assert not any('evil' in path.name for path in new)


# -- files of a work directory that are damaged --------------------------------------------------


def scalars(world: World) -> None:
    """Bytes in the log that are not UTF-8."""
    (path,) = (world / 'run').glob('*/vis_data/scalars.json')
    path.write_bytes(b'{"loss": 1, "step": 1}\n\xff\xfe{"loss\n' + path.read_bytes())


REPORTED = [
    ('loss_balance.json of 0 bytes', lambda w: (w / 'run/loss_balance.json').write_text(''), 1,
     r'loss_balance\.json cannot be read .*Remove it'),
    ('run.json of 0 bytes', lambda w: (w / 'run/run.json').write_text(''), 1,
     r'run\.json cannot be read .*Remove it'),
    ('run.json cut', lambda w: (w / 'run/run.json').write_text('{"role"'), 1,
     r'run\.json cannot be read'),
    ('a config that is no Python',
     lambda w: next((w / 'run').glob('*/vis_data/config.py')).write_text('x = ('), 1,
     r'config\.py is no Python that can be read'),
    ('a checkpoint cut short', lambda w: (w / 'run/iter_2.pth').write_bytes(b'PK123'), 0,
     r'not in the report: run was not run: The checkpoint .*(damaged|cannot be read)'),
    ('a log that is not UTF-8', scalars, 0, r'report\.html'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('spoil', 'code', 'words'), [r[1:] for r in REPORTED], ids=[r[0] for r in REPORTED]
)
def test_a_report_of_damaged_files(world, spoil, code, words):
    spoil(world)
    done = call(world, 'report', 'run', '--no-predict')
    assert done.code == code, done.text
    assert re.search(words, ' '.join(done.text.split())), done.text


def test_a_plot_of_a_log_that_is_not_utf8(world):
    scalars(world)
    assert call(world, 'plot', 'run').code == 0


# -- data of one's own ---------------------------------------------------------------------------


def to_voc(world: World) -> None:
    """Leave the data in the form of VOC alone."""
    shutil.move(world / 'digits/VOC2007', world / 'voc')


def name_of_first(world: World, old: str, new: str) -> None:
    path = sorted((world / 'voc/Annotations').glob('train_*'))[0]
    path.write_text(re.sub(old, new, path.read_text(), count=1, flags=re.DOTALL))


OWN = [
    ('json in latin-1', 'digits', lambda w: (w / 'digits/annotations/train.json').write_bytes(
        b'{"a": "\xe9"}'), r'train\.json is not text in UTF-8'),
    ('json cut short', 'digits', lambda w: (w / 'digits/annotations/train.json').write_text('{"a'),
     r'train\.json is not JSON'),
    ('json of nothing', 'digits', lambda w: (w / 'digits/annotations/val.json').write_text('{}'),
     r'val\.json is not in the form of COCO, or empty'),
    ('no val', 'digits', lambda w: (w / 'digits/annotations/val.json').unlink(), r'has no annotat'),
    ('two for training', 'digits', lambda w: shutil.copy(
        w / 'digits/annotations/train.json', w / 'digits/annotations/train2.json'), r'has several'),
    ('no images', 'digits', lambda w: shutil.rmtree(w / 'digits/VOC2007/JPEGImages'),
     r'The image .* of the annotations is nowhere below'),
    ('xml empty', 'voc', lambda w: name_of_first(w, '^.*$', ''), r'not XML: no element found'),
    ('xml of no name', 'voc', lambda w: name_of_first(w, '<name>[^<]*', '<name>'),
     r'objects have no name'),
    ('xml of words', 'voc', lambda w: name_of_first(w, '<xmin>[^<]*', '<xmin>abc'),
     r'boxes are not four numbers \(abc'),
    ('xml missing', 'voc', lambda w: [p.unlink() for p in (w / 'voc/Annotations').iterdir()],
     r'train_000000\.xml, which .* asks for, is not there'),
    ('empty list', 'voc', lambda w: (w / 'voc/ImageSets/Main/train.txt').write_text(''),
     r'train\.txt is empty'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('folder', 'spoil', 'words'), [r[1:] for r in OWN], ids=[f'--data {r[0]}' for r in OWN]
)
def test_data_of_ones_own(world, folder, spoil, words):
    if folder == 'voc':
        to_voc(world)
    spoil(world)
    done = call(world, 'distill', *DISTIL, '--data', folder)
    assert done.code == 1, done.text
    assert re.search(words, ' '.join(done.text.split())), done.text


def all_of_one_class(world: World) -> None:
    """Let all objects be of the first class, and be scored as such."""
    world.edit_json(
        lambda a: [o.update(category_id=a['categories'][0]['id']) for o in a['annotations']], 'val'
    )
    head = dict(weight=torch.zeros(10, 16, 3, 3), bias=torch.eye(10)[0])
    changes = {f'bbox_head.gfl_cls.{part}': value for part, value in head.items()}
    world.edit_checkpoint(S, lambda c: c['state_dict'].update(changes))


CONFUSED = [
    ('no objects', lambda w: w.edit_json(lambda a: a.update(annotations=[]), 'val'),
     r'was shown no annotated objects .*Name a validation set with objects'),
    ('objects of one class', all_of_one_class, r'confused no classes .*Name a validation set'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('spoil', 'words'), [r[1:] for r in CONFUSED], ids=[f'specialists: {r[0]}' for r in CONFUSED]
)
def test_data_that_says_nothing_of_which_classes_are_confused(world, spoil, words):
    spoil(world)
    done = call(world, 'specialists', 'alone.py', S)
    assert done.code == 1, done.text
    assert re.search(words, ' '.join(done.text.split())), done.text
    assert not (world / 'run/specialists').exists()


# -- disk, locks, and what is whose fault --------------------------------------------------------


DISK = [
    (errno.ENOSPC, r'The disk is full: .*iter_1\.pth could not be written.*--resume'),
    (errno.EDQUOT, r'Your quota of the disk is used up'),
    (errno.EROFS, r'iter_1\.pth cannot be written: its file system is read-only'),
    (errno.EACCES, r'There is no right to read or write .*iter_1\.pth'),
]


@pytest.mark.parametrize(('number', 'words'), DISK, ids=[errno.errorcode[r[0]] for r in DISK])
def test_a_disk_that_does_not_take_a_checkpoint(world, monkeypatch, number, words):
    def fail(*_, **__):
        raise OSError(number, 'as the system says', 'work/iter_1.pth')

    monkeypatch.setattr('mmengine.runner.runner.save_checkpoint', fail)
    done = train(world)
    assert done.code == 1, done.text
    assert re.search(words, done.text), done.text
    assert json.loads((world / 'work/run.json').read_text())['starts'][-1]['ended'] == 'failed'


def test_two_trainings_in_one_folder(world, monkeypatch):
    monkeypatch.setattr('kd_dense.training.PATIENCE', 0)
    (world / 'work').mkdir()
    with FileLock(world / 'work/.lock'):
        done = train(world)
    assert done.code == 1, done.text
    assert 'Another training writes into work. Wait for its end' in done.text
    assert not (world / 'work/iter_1.pth').exists()


def test_a_lock_that_a_dead_process_left_holds_nobody(world):
    (world / 'work').mkdir()
    (world / 'work/.lock').touch()
    done = train(world)
    assert done.code == 0, done.text


def test_a_student_whose_steps_are_never_finite(world):
    world.options |= {'optim_wrapper.optimizer.lr': '1e30', 'train_cfg.max_iters': '60'}
    world.options['default_hooks.checkpoint.interval'] = '100'
    done = train(world)
    assert done.code == 1, done.text
    assert '50 steps of the student in a row had gradients that are not finite' in done.text


@pytest.mark.parametrize('key', ['discriminator', 'student'])
def test_an_optimizer_of_the_game_is_missing(world, key):
    world.options[f'optim_wrapper.{key}'] = 'None'
    done = train(world, config='seg.py')
    assert done.code == 1, done.text
    assert f'optim_wrapper.{key} is None; it is a dict with an `optimizer`' in done.text


def test_a_batch_of_one_for_batch_norms_that_pool(world):
    world.options |= {'train_dataloader.batch_size': '1'}
    done = train(world, config='seg.py')  # PSPNet pools to one pixel
    assert done.code == 1, done.text
    assert 'raise `train_dataloader.batch_size` to 2 or more' in done.text


WRONG: list[tuple[str, Callable[[World], object]]] = [
    ('optim_wrapper.optimizer.lr=-1', ValueError),
    ('model.student.type=Nope', KeyError),
    ('model.losses.ld.weight=-1', SetupError),
]


@pytest.mark.parametrize(('override', 'kind'), WRONG, ids=[r[0] for r in WRONG])
def test_the_traceback_is_there_when_asked_for(world, override, kind):
    key, world.options[key] = override.split('=')[0], override.split('=')[1]
    with pytest.raises(kind):
        train(world, '--traceback')


def test_a_fault_of_ours_keeps_its_traceback(world, monkeypatch):
    monkeypatch.setattr(
        'kd_dense.losses.SoftTargets.forward', lambda self, *_: dict(a=1)['no such key']
    )
    with pytest.raises(KeyError, match='no such key'):
        train(world)


def test_outside_of_the_tools_mmengine_reads_as_it_does():
    from mmengine.runner import CheckpointLoader
    from mmengine.runner import checkpoint as host

    assert host.load_url is not load_from_url
    assert CheckpointLoader._get_checkpoint_loader('a.pth').__name__ == 'load_from_local'
    assert torch.serialization.get_default_load_endianness() is None
