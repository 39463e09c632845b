"""Checkpoints: read completely, or refused in words that name what was found and the way out."""

import copy

import pytest
import torch
from torch import nn

from kd_dense.errors import SetupError
from kd_dense.hosts.checkpoints import (
    class_names,
    compare_weights,
    load_completely,
    model_state,
    read_checkpoint,
)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def same(a: nn.Module, b: dict) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.state_dict().items())


# -- reading -----------------------------------------------------------------------------------


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = tmp_path / 'good.pth'
    torch.save(dict(state_dict=model().state_dict(), meta=dict(epoch=3)), path)
    for name in (path, str(path)):
        checkpoint = read_checkpoint(name, 'teacher')
        assert checkpoint['meta'] == dict(epoch=3)
        assert same(model(), checkpoint['state_dict'])


def test_a_missing_checkpoint_is_named_with_the_way_out(tmp_path):
    path = tmp_path / 'gone.pth'
    message = rf'checkpoint of the teacher was not found: {path} \(looked from .*Train the teach'
    with pytest.raises(FileNotFoundError, match=message):
        read_checkpoint(path, 'teacher')
    with pytest.raises(
        FileNotFoundError, match=r'of the student was not found: .*\. Run the other one'
    ):
        read_checkpoint(path, 'student', 'Run the other one first.')


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match='was not found'):
        read_checkpoint(tmp_path, 'teacher')


@pytest.mark.parametrize('keep', [0, 10, 200, 1000, -100])
def test_a_checkpoint_cut_short_is_named_with_the_way_out(tmp_path, keep):
    path = tmp_path / 'cut.pth'
    torch.save(dict(state_dict=model().state_dict()), path)
    path.write_bytes(path.read_bytes()[:keep])
    message = r'of the teacher .*cut\.pth cannot be read: it may be cut short.*Copy or train it'
    with pytest.raises(SetupError, match=message):
        read_checkpoint(path, 'teacher')


@pytest.mark.parametrize(
    'content', [b'<html>404 Not Found</html>', b'\x80\x04garbage', b'version h']
)
def test_something_that_is_no_checkpoint_at_all_is_named(tmp_path, content):
    path = tmp_path / 'page.pth'
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r'teacher .*page\.pth cannot be read: '):
        read_checkpoint(path, 'teacher')


def test_a_checkpoint_that_holds_something_else_is_named(tmp_path):
    path = tmp_path / 'list.pth'
    torch.save([1, 2], path)
    with pytest.raises(SetupError, match=r'teacher holds a list, a dict was expected: .*list\.pth'):
        read_checkpoint(path, 'teacher')


def test_an_address_that_cannot_be_fetched_is_named_with_the_way_out(monkeypatch):
    from urllib.error import URLError

    from mmengine.runner import CheckpointLoader

    def fail(*_, **__):
        raise URLError('no network')

    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', fail)
    message = 'could not be fetched: https://nowhere.invalid/x.pth .*no network.*Download it on'
    with pytest.raises(FileNotFoundError, match=message):
        read_checkpoint('https://nowhere.invalid/x.pth', 'teacher')


# -- the weights of one plain model ------------------------------------------------------------


@pytest.mark.parametrize('key', ['state_dict', 'model', None])
def test_the_weights_are_found_where_checkpoints_keep_them(key):
    state = model().state_dict()
    found = model_state({key: state, 'meta': {}} if key else state)
    assert same(model(), found)


def test_prefixes_of_wrappers_are_taken_off():
    state = {f'module.{k}': v for k, v in model().state_dict().items()}
    assert same(model(), model_state(dict(state_dict=state)))


@pytest.mark.parametrize('wrapper', ['', 'module.'])
def test_of_a_distiller_the_student_is_taken(wrapper):
    state = {f'{wrapper}student.{k}': v for k, v in model().state_dict().items()}
    state[f'{wrapper}losses.hint.adapters.0.weight'] = torch.zeros(1)
    found = model_state(dict(state_dict=state))
    assert list(found) == list(model().state_dict())
    assert same(model(), found)


def test_what_is_no_weight_is_left_out():
    state = dict(model().state_dict(), _metadata='text', epoch=3)
    assert list(model_state(dict(state_dict=state))) == list(model().state_dict())


# -- class names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        (dict(dataset_meta=dict(classes=('cat', 'dog'))), ('cat', 'dog')),
        (dict(dataset_meta=dict(CLASSES=['cat', 'dog'])), ('cat', 'dog')),
        (dict(CLASSES=('cat', 'dog')), ('cat', 'dog')),
        (dict(CLASSES='cat'), ('cat',)),
        (dict(dataset_meta=dict(classes='cat')), ('cat',)),
        (dict(dataset_meta=dict(palette=[1]), epoch=3), None),
        (dict(dataset_meta=None), None),
        ({}, None),
    ],
)
def test_class_names_are_read_as_each_version_writes_them(meta, expected):
    assert class_names(dict(meta=meta)) == expected


def test_a_checkpoint_without_meta_tells_no_class_names():
    assert class_names(dict(state_dict={})) is None
    assert class_names(dict(meta=None)) is None


# -- loading -----------------------------------------------------------------------------------


def test_every_weight_is_loaded():
    target = model(1)
    load_completely(target, model().state_dict(), 'a.pth', 'teacher')
    assert same(model(), target.state_dict())


def test_old_checkpoints_may_lack_batch_counters():
    state = model().state_dict()
    del state['1.num_batches_tracked']
    target = model(1)
    load_completely(target, state, 'a.pth', 'teacher')
    assert torch.equal(target[1].running_mean, state['1.running_mean'])
    assert torch.equal(target[0].weight, state['0.weight'])


def spoil(**changes) -> dict:
    """Weights of another model, with some replaced, or left out where the change is None."""
    state = model().state_dict() | changes
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ('changes', 'parts'),
    [
        (
            {'0.weight': None},
            ['8 of 9 weights match', 'missing: 0.weight;', 'unexpected: none', 'other shape: none'],
        ),
        (
            {'3.weight': torch.zeros(1)},
            ['9 of 9 weights match', 'missing: none', 'unexpected: 3.weight;'],
        ),
        (
            {'2.weight': torch.zeros(5, 4, 1, 1)},
            ['8 of 9 weights match', 'other shape: 2.weight (5, 4, 1, 1) instead of (2, 4, 1, 1)'],
        ),
        (
            {'2.bias': None, 'x': torch.zeros(1), '0.bias': torch.zeros(1)},
            ['7 of 9', 'missing: 2.bias', 'unexpected: x', '0.bias (1,) instead of (4,)'],
        ),
        (
            {name: None for name in model().state_dict()},
            ['0 of 9', 'missing: 0.weight, 0.bias, 1.weight, 1.bias, ... (8 in all)'],
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_loaded(changes, parts):
    target = model(1)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(SetupError) as error:
        load_completely(target, spoil(**changes), 'a.pth', 'teacher')
    message = str(error.value)
    assert message.startswith('The checkpoint a.pth does not fit the teacher (Sequential): ')
    for part in (*parts, 'Nothing was loaded. Name the checkpoint that was trained with this'):
        assert part in message
    assert same(target, before)


def test_a_weight_under_a_second_name_is_none_too_many():
    model = nn.ModuleDict(dict(head=nn.ModuleDict(dict(branch=nn.Linear(2, 2)))))
    state = dict(model.state_dict())
    state['decoder.branch.weight'] = state['head.branch.weight'].clone()
    assert compare_weights(model, state).complete
    state['decoder.branch.weight'] += 1
    assert compare_weights(model, state).unexpected == ['decoder.branch.weight']
