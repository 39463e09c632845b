"""Wrong checkpoints: cut, damaged, of other models, not finite, and those that would run code."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kd_dense.datasets import CLASSES
from kd_dense.errors import SetupError
from kd_dense.hooks import StudentCheckpointHook
from kd_dense.hosts.loading import CAN_ALLOW, guarded_loading, load_from_url, sha256
from tests.faults.world import Outcome, World, call, train

S, SUMS = 'run/iter_2_student.pth', 'run/iter_2.pth.sha256'


def keep(name: str, number: int) -> Callable[[World], None]:
    """Cut a file to a number of bytes; a negative one cuts so many off."""

    def spoil(world: World) -> None:
        (world / name).write_bytes((world / name).read_bytes()[:number])

    return spoil


def flip(name: str) -> Callable[[World], None]:
    """Change a byte in the middle of a file."""

    def spoil(world: World) -> None:
        content = bytearray((world / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (world / name).write_bytes(content)

    return spoil


def fill(name: str, value: float, share: int = 1) -> Callable[[World], None]:
    """Set every so many weights of a checkpoint to a value."""

    def change(checkpoint: dict) -> None:
        floats = [v for v in checkpoint['state_dict'].values() if v.is_floating_point()]
        for weight in floats[::share]:
            weight.fill_(value)

    return lambda world: world.edit_checkpoint(name, change)


def weights(change: Callable[[dict], object], name: str = 'teacher.pth') -> Callable[[World], None]:
    """Change the weights of a checkpoint."""
    return lambda world: world.edit_checkpoint(name, lambda c: change(c['state_dict']))


def classes(names: object, name: str = 'teacher.pth') -> Callable[[World], None]:
    """Let a checkpoint tell other classes."""
    return lambda world: world.edit_checkpoint(
        name, lambda c: c['meta'].update(dataset_meta=dict(classes=names))
    )


SWAPPED = (CLASSES[1], CLASSES[0], *CLASSES[2:])
NAN = float('nan')
TEACHERS = [
    ('of 0 bytes', keep('teacher.pth', 0), r'teacher teacher\.pth cannot be read: .*cut short'),
    ('of 10 bytes', keep('teacher.pth', 10), r'teacher teacher\.pth cannot be read: .*cut short'),
    ('of 1000 bytes', keep('teacher.pth', 1000), r'cannot be read: .*Copy or train it again'),
    ('without its end', keep('teacher.pth', -100), r'cannot be read: .*Copy or train it again'),
    ('of NaN', fill('teacher.pth', NAN), r'weights of the teacher are not finite: .*older'),
    ('of some NaN', fill('teacher.pth', NAN, 40), r'weights of the teacher are not finite'),
    ('of inf', fill('teacher.pth', float('inf')), r'weights of the teacher are not finite'),
    ('of zeros', fill('teacher.pth', 0.0), r'All weights of the teacher are zero, in teacher\.pth'),
    ('of a list', lambda w: torch.save([1], w / 'teacher.pth'), r'holds a list, a dict was'),
    ('of nothing', lambda w: torch.save({}, w / 'teacher.pth'), r'does not fit the teacher: 0 of'),
    ('without one weight', weights(lambda s: s.pop('backbone.conv1.weight')),
     r'does not fit the teacher: \d+ of \d+ weights match; missing: backbone\.conv1\.weight'),
    ('with one more', weights(lambda s: s.update(x=torch.ones(1))), r'unexpected: x;'),
    ('of another shape', weights(lambda s: s.update({'backbone.conv1.weight': torch.ones(1)})),
     r'other shape: backbone\.conv1\.weight \(1,\) instead of'),
    ('of another model', lambda w: shutil.copy(w / 'seg.pth', w / 'teacher.pth'),
     r'does not fit the teacher: '),
    ('of swapped classes', classes(SWAPPED), r'The same classes in another order: class 0 is'),
    ('of other classes', classes(('cat', *CLASSES[1:])), r"Other classes: class 0 is 'cat'"),
    ('of fewer classes', classes(CLASSES[:9]), r'Other classes: class 9 is missing'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('spoil', 'words'), [r[1:] for r in TEACHERS], ids=[f'teacher {r[0]}' for r in TEACHERS]
)
def test_a_teacher_that_cannot_teach(world, spoil, words):
    spoil(world)
    done = train(world)
    assert done.code == 1, done.text
    assert re.search(words, done.text), done.text


def test_a_teacher_that_tells_no_classes_is_warned_of(world):
    world.edit_checkpoint('teacher.pth', lambda checkpoint: checkpoint.pop('meta'))
    done = call(world, 'check', 'ld.py', '--steps', '0')
    assert 'tells no class names: that their order is the same cannot be seen' in _flat(done)


def _flat(done: Outcome) -> str:
    return ' '.join(done.text.split())


# -- resuming ----------------------------------------------------------------------------------


def resume(world: World, *path: str) -> Outcome:
    """Go on from the training in ``run``, for two steps more."""
    world.options['train_cfg.max_iters'] = 4
    return train(world, '--resume', *path, work='run')


BACK = [
    ('a flipped byte', [flip('run/iter_2.pth')]),
    ('a cut', [keep('run/iter_2.pth', 5000)]),
    ('a cut without a sum', [keep('run/iter_2.pth', 5000), lambda w: (w / SUMS).unlink()]),
    ('0 bytes', [keep('run/iter_2.pth', 0)]),
    ('0 bytes and an empty note', [keep('run/iter_2.pth', 0), keep('run/last_checkpoint', 0)]),
]


@pytest.mark.parametrize('spoils', [r[1] for r in BACK], ids=[r[0] for r in BACK])
def test_a_damaged_newest_checkpoint_is_passed_over_and_that_is_said(world, spoils):
    for spoil in spoils:
        spoil(world)
    world.options['log_level'] = 'INFO'
    done = resume(world)
    assert done.code == 0, done.text
    assert 'run/iter_2.pth is cut short or damaged: going on from the one before' in done.text
    assert 'resumed epoch: 0, iter: 1' in done.text


@pytest.mark.parametrize('note', ['', 'nowhere/iter_2.pth', 'run/iter_9.pth'])
def test_a_wrong_note_is_mended_from_the_files(world, note):
    (world / 'run/last_checkpoint').write_text(note)
    world.options['log_level'] = 'INFO'
    done = resume(world)
    assert done.code == 0, done.text
    assert 'resumed epoch: 0, iter: 2' in done.text


def test_nothing_to_resume_is_said(world):
    shutil.rmtree(world / 'run')
    done = resume(world)
    assert 'There is nothing to resume in run: starting anew' in done.text


def another(key: str, value: object) -> Callable[[World], None]:
    """Another config than that of the training."""
    return lambda world: world.options.update({key: value})


REFUSED = [
    ('a path of none', 'nowhere.pth', [], r'nowhere\.pth'),
    ('a flipped byte', 'run/iter_2.pth', [flip('run/iter_2.pth')],
     r'run/iter_2\.pth is damaged: its content is not what iter_2\.pth\.sha256 beside it says'),
    ('a cut', 'run/iter_2.pth', [keep('run/iter_2.pth', 5000), lambda w: (w / SUMS).unlink()],
     r'run/iter_2\.pth cannot be read: .*cut short'),
    ('0 bytes', 'run/iter_2.pth', [keep('run/iter_2.pth', 0), lambda w: (w / SUMS).unlink()],
     r'run/iter_2\.pth cannot be read'),
    ('the student alone', 'run/iter_2_student.pth', [],
     r'iter_2_student\.pth holds no state of a training to resume .*leave out --resume'),
    ('one loss more', 'run/iter_2.pth',
     [another('model.losses.two.type', 'kd_dense.FeatureImitation')],
     r'is of another training than this config: .*missing: losses\.two'),
    ('one loss less', 'run/iter_2.pth',
     [lambda w: w.edit_config(lambda c: c.model.losses.pop('imitation'))],
     r'is of another training than this config: .*unexpected: losses\.imitation'),
    ('another student', 'run/iter_2.pth', [another('model.student.bbox_head.feat_channels', 24)],
     r'(is of another training|\d+ of \d+ weights match).*other shape: '),
    ('another optimizer', 'run/iter_2.pth', [lambda w: w.edit_config(
        lambda c: c.optim_wrapper.update(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)))],
     r'was trained with another optimizer: it was no SGD'),
    ('not finite', 'run/iter_2.pth',
     [fill('run/iter_2.pth', NAN), lambda w: (w / SUMS).unlink()],
     r'weights of the student are not finite'),
    ('the training of the student alone', 'alone/iter_2.pth',
     [lambda w: train(w, config='alone.py', work='alone')], r'another training than this config'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('path', 'spoils', 'words'), [r[1:] for r in REFUSED], ids=[f'resume {r[0]}' for r in REFUSED]
)
def test_a_training_does_not_go_on_from_what_does_not_fit(world, path, spoils, words):
    for spoil in spoils:
        spoil(world)
    done = resume(world, path)
    assert done.code == 1, done.text
    assert re.search(words, done.text), done.text


# -- students ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'arguments', [('test', '--work-dir', 'w'), ('export', '--out', 'out')], ids=['test', 'export']
)
@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (fill('run/iter_2_student.pth', NAN), r'weights of the student are not finite'),
        (fill('run/iter_2_student.pth', 0.0), r'All weights of the student are zero'),
        (keep('run/iter_2_student.pth', 999), r'iter_2_student\.pth cannot be read'),
        (lambda w: shutil.copy(w / 'teacher.pth', w / 'run/iter_2_student.pth'),
         r'iter_2_student\.pth does not fit the student \(GFL\)'),
        (lambda w: (w / 'run/iter_2_student.pth').unlink(), r'student was not found'),
    ],
    ids=['of NaN', 'of zeros', 'cut', 'of another', 'missing'],
)  # fmt: skip
def test_a_student_that_is_none(world, arguments, spoil, words):
    spoil(world)
    tool, *more = arguments
    done = call(world, tool, 'ld.py', 'run/iter_2_student.pth', *more)
    assert done.code == 1, done.text
    assert re.search(words, done.text), done.text
    assert not (world / 'out').exists()


@pytest.mark.parametrize(
    ('names', 'words'),
    [
        (SWAPPED, r'not those of the data set, but the same classes in another order: class 0'),
        (('cat', *CLASSES[1:]), r"but others: class 0 is 'cat' there and 'zero' in the data"),
        (CLASSES[:9], r"but others: class 9 is missing there and 'nine' in the data"),
    ],
)
def test_a_student_of_other_classes_is_not_tested(world, names, words):
    classes(names, 'run/iter_2_student.pth')(world)
    done = call(world, 'test', 'ld.py', 'run/iter_2_student.pth', '--work-dir', 'w')
    assert done.code == 1, done.text
    assert re.search(words, done.text), done.text


@pytest.mark.parametrize('config', ['ld.py', 'alone.py'])
def test_a_start_that_is_not_finite(world, config):
    fill('run/iter_2_student.pth', NAN)(world)
    world.options['load_from'] = 'run/iter_2_student.pth'
    done = train(world, config=config)
    assert done.code == 1, done.text
    assert 'weights of the student are not finite' in done.text


def test_a_student_of_nan_is_not_written_and_that_is_said(world):
    fill('run/iter_2.pth', NAN)(world)
    hook = StudentCheckpointHook()
    hook.written = True
    hook.write(world / 'run/iter_2.pth')
    assert not (world / 'run/iter_2_student.pth').exists()


def test_infinities_in_a_config_survive_a_checkpoint(world):
    world.options['optim_wrapper.clip_grad.max_norm'] = '1e999'
    done = train(world)
    assert done.code == 0, done.text
    student = torch.load(world / 'work/iter_2_student.pth', weights_only=True)
    assert "max_norm=float('inf')" in student['meta']['cfg'].replace(' ', '').replace('"', "'")


# -- files that would run code -----------------------------------------------------------------


class Touch:
    """When unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def poison(world: World, name: str) -> Path:
    """Put into a checkpoint what makes a file when it is unpickled."""
    made = world / 'it_ran'
    world.edit_checkpoint(name, lambda c: c.setdefault('meta', {}).update(extra=Touch(made)))
    (world / f'{name}.sha256').unlink(missing_ok=True)
    assert not made.exists()
    return made


def start(world: World, *arguments: str, config: str = 'ld.py') -> Outcome:
    """Train from a checkpoint."""
    world.options['load_from'] = 's.pth'
    return train(world, *arguments, config=config)


def pretrained(world: World, *arguments: str) -> Outcome:
    """Train with a backbone from a checkpoint."""
    init = 'model.backbone.init_cfg'
    world.options |= {f'{init}.type': 'Pretrained', f'{init}.checkpoint': 's.pth'}
    return train(world, *arguments, config='alone.py')


def tool(name: str, *arguments: str) -> Callable[..., Outcome]:
    """Call a tool."""
    return lambda world, *more: call(world, name, *arguments, *more)


CHECK = ('check', 'ld.py', '--steps', '0')
READERS: dict[str, tuple[str, Callable[..., Outcome]]] = {
    'teacher': ('teacher.pth', train),
    'load_from': ('s.pth', start),
    'load_from alone': ('s.pth', lambda *arguments: start(*arguments, config='alone.py')),
    'pretrained': ('s.pth', pretrained),
    'resume': ('run/iter_2.pth', lambda world, *more: resume(world, 'run/iter_2.pth', *more)),
    'resume the newest': ('run/iter_2.pth', resume),
    'test': ('s.pth', tool('test', 'ld.py', 's.pth', '--work-dir', 'w')),
    'check': ('teacher.pth', tool(*CHECK)),
    'check --checkpoint': ('s.pth', tool(*CHECK, '--checkpoint', 's.pth')),
    'export': ('s.pth', tool('export', 'ld.py', 's.pth')),
    'report': ('run/iter_2.pth', tool('report', 'run', '--images', '1')),
    'report --no-predict': ('run/iter_2.pth', tool('report', 'run', '--no-predict')),
}


@pytest.mark.skipif(not CAN_ALLOW, reason='this torch cannot be told what to allow')
@pytest.mark.parametrize('reader', READERS)
def test_no_reader_runs_what_is_in_a_checkpoint(world, reader):
    shutil.copy(world / 'run/iter_2_student.pth', world / 's.pth')
    name, read = READERS[reader]
    made = poison(world, name)
    done = read(world)
    assert not made.exists()
    if not reader.startswith('report'):  # which goes on without it, and says so on the page
        assert done.code == 1, done.text
    told = ' '.join(done.text.split())
    assert 'holds more than weights (`posix.system`)' in told, told
    assert '--trust-checkpoint' in told


@pytest.mark.parametrize('reader', ['teacher', 'load_from alone', 'test', 'export'])
def test_trust_is_the_way_out(world, reader):
    shutil.copy(world / 'run/iter_2_student.pth', world / 's.pth')
    name, read = READERS[reader]
    made = poison(world, name)
    done = read(world, '--trust-checkpoint')
    assert done.code == 0, done.text
    assert made.exists()


def test_one_teacher_may_be_trusted_alone(world):
    made = poison(world, 'teacher.pth')
    world.options['model.teacher.trust'] = 'True'
    done = train(world)
    assert done.code == 0 and made.exists(), done.text


CODE = [
    "import os; os.system('touch it_ran')",
    "x = __import__('os').system('touch it_ran')",
    "x = dict(a=open('it_ran', 'w'))",
    "x = ''.join([y for y in [open('it_ran', 'w')]] and [])",
    "x = '{{$NO_SUCH_VARIABLE:' + open('it_ran', 'w') + '}}'",
    "_base_ = ['evil.py']",
    'x = (',
]


@pytest.mark.parametrize('text', CODE)
def test_the_text_of_a_config_in_a_checkpoint_is_not_run(world, monkeypatch, text):
    monkeypatch.chdir(world.folder)
    (world / 'evil.py').write_text("open('it_ran', 'w')")
    world.edit_checkpoint('run/iter_2.pth', lambda c: c['meta'].update(cfg=text))
    StudentCheckpointHook().write(world / 'run/iter_2.pth')
    assert not (world / 'it_ran').exists()
    assert 'cfg' not in torch.load(world / S, weights_only=True)['meta']  # the weights are there


# -- downloads ---------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A cache as if files had been fetched."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    folder = tmp_path / 'checkpoints'
    folder.mkdir()
    return folder


@pytest.mark.parametrize('ending', ['-deadbeef.pth', '-0123456789abcdef.pth', '-deadbeef01.pt'])
def test_a_download_that_is_not_what_its_name_says(hub, ending):
    torch.save(dict(state_dict={}), hub / f'teacher{ending}')
    with guarded_loading(), pytest.raises(SetupError, match='is not what its name says: its SHA'):
        load_from_url(f'https://localhost/teacher{ending}')


def test_a_download_that_is_what_its_name_says(hub):
    torch.save(dict(state_dict={}), hub / 'teacher.pth')
    name = f'teacher-{sha256(hub / "teacher.pth")[:8]}.pth'
    (hub / 'teacher.pth').rename(hub / name)
    with guarded_loading():
        assert load_from_url(f'https://localhost/{name}') == dict(state_dict={})


def test_a_date_in_a_name_is_no_hash(hub):
    torch.save(dict(state_dict={}), hub / 'teacher-20201231.pth')
    with guarded_loading():
        load_from_url('https://localhost/teacher-20201231.pth')


@pytest.mark.parametrize('trust', [False, True])
def test_http_is_a_matter_of_its_own(hub, trust):
    torch.save(dict(state_dict={}), hub / 'teacher.pth')
    url = 'http://localhost:9/teacher.pth'
    with guarded_loading(trust=trust), pytest.raises(SetupError, match='--allow-http'):
        load_from_url(url)
    with guarded_loading(trust=trust, http=True):
        assert load_from_url(url) == dict(state_dict={})


def test_a_command_allows_http(hub, world):
    torch.save(torch.load(world / 'teacher.pth', weights_only=False), hub / 'teacher.pth')
    world.options['model.teacher.checkpoint'] = 'http://localhost:9/teacher.pth'
    assert 'without encryption' in ' '.join(train(world).text.split())
    assert train(world, '--trust-checkpoint').code == 1
    assert train(world, '--allow-http').code == 0
