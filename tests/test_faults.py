"""An error that another package raised becomes a sentence; one of ours does not."""

import builtins

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, Registry
from torch import nn

from kd_dense.errors import SetupError
from kd_dense.faults import explain

THINGS = Registry('thing')
KINDS = [
    kind
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == 'builtins'
]


@THINGS.register_module()
class Thing:
    """Takes what a config gives."""

    def __init__(self, size: int = 1, shape: str = 'round') -> None:
        if size < 1:
            raise AssertionError
        if shape != 'round':
            raise ValueError(f'no such shape: {shape}')


def caught(call) -> Exception:
    with pytest.raises(Exception) as stopped:
        call()
    return stopped.value


def raised(error: Exception) -> Exception:
    def fail() -> None:
        raise error

    return caught(fail)


def build(**values) -> Exception:
    config = Config(dict(parts=[dict(inner=dict(type='Thing', **values))]))
    return caught(lambda config=config: _built(config))


def _built(config: Config) -> object:
    return THINGS.build(config.parts[0].inner)


@pytest.mark.parametrize('kind', KINDS)
def test_no_error_is_too_odd_to_be_looked_at(kind):
    for words in ((), ('',), ('\n',), (': ',)):
        try:
            error = kind(*words)
        except TypeError:  # such as UnicodeDecodeError, which takes five
            continue
        assert explain(raised(error)) is None or isinstance(explain(raised(error)), str)


def test_what_can_be_put_right_is_said_as_it_is():
    assert explain(SetupError('put it right')) == 'put it right'
    assert explain(FileNotFoundError('train it first')) == 'train it first'


@pytest.mark.parametrize('error', [ZeroDivisionError(), KeyError('x'), RuntimeError('odd')])
def test_what_nobody_knows_is_our_fault(error):
    assert explain(raised(error)) is None


def test_the_key_the_class_and_the_value_are_named():
    assert explain(build(sise=3)) == (
        "parts.0.inner (Thing) has no argument 'sise'. Did you mean 'size'? It takes `size`, "
        '`shape`.'
    )
    said = 'parts.0.inner (Thing) cannot be built from the config: no such shape: square. '
    assert explain(build(shape='square')) == said + "Look at its values: shape='square'."
    assert 'AssertionError at `raise AssertionError`. Look at its values: size=0' in explain(
        build(size=0)
    )


def test_a_type_that_is_not_there_is_named_with_the_nearest():
    error = caught(lambda: THINGS.build(dict(type='Thng')))
    assert "There is no type 'Thng'" in explain(error)
    assert "Did you mean 'Thing'?" in explain(error)
    assert "There is no type 'Nope'" in explain(caught(lambda: MODELS.build(dict(type='Nope'))))


def test_an_error_of_a_data_worker_is_found_in_its_text():
    text = (
        'Caught AssertionError in DataLoader worker process 0.\nOriginal Traceback (most recent '
        'call last):\n  File "loading.py", line 1\nAssertionError: failed to load image: a/b.jpg'
    )
    assert explain(raised(AssertionError(text))).startswith('a/b.jpg cannot be read as an image')


def test_shapes_that_do_not_fit_in_a_model_are_its_configs():
    import torch

    error = caught(lambda: nn.Conv2d(3, 4, 1)(torch.ones(1, 2, 5, 5)))
    assert 'takes 3 channels and gets 2' in explain(error)
