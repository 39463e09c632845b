"""Say what a user can put right of an error that another package raised.

What can be looked at before is refused where it is read; this is the rest, at the edge. Errors that
nothing here knows are faults of ours, and keep their traceback.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from pathlib import Path
from types import TracebackType
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from .building import did_you_mean, listed
from .errors import SetupError
from .hosts.loading import asked_for

IN_WORKER = re.compile(r'Caught (\w+) in DataLoader worker process')

DISK = {
    errno.ENOSPC: 'The disk is full: {file} could not be written. Free some space; a training goes '
    'on from its newest whole checkpoint with --resume.',
    errno.EDQUOT: 'Your quota of the disk is used up: {file} could not be written. Free some '
    'space; a training goes on from its newest whole checkpoint with --resume.',
    errno.EROFS: '{file} cannot be written: its file system is read-only. Name another place '
    '(--work-dir, --out).',
    errno.EACCES: 'There is no right to read or write {file}. Change its rights, or name another '
    'place.',
    errno.EPERM: 'There is no right to change {file}. Change its rights, or name another place.',
    errno.EEXIST: '{file} is a file, and a folder was expected there. Name another place '
    '(--work-dir, --out), or move it away.',
    errno.ENOTDIR: 'A part of the path {file} is a file, and a folder was expected there. Name '
    'another place.',
    errno.EISDIR: '{file} is a folder, and a file was expected. Name a file.',
    errno.ENAMETOOLONG: 'The name {file} is too long for the file system. Name another.',
    errno.ENOENT: 'There is no file {file} (looked from {here}). Look at the path in the config or '
    'on the command line; `data_root` and the prefixes of the data set come before those in '
    'annotations.',
    errno.EADDRINUSE: 'The port of the ranks is in use ({text}). Choose another: PORT=29501.',
}

# what hosts say -> what it means and the way out; groups of the pattern fill the sentence
PHRASES = {
    r'KeyError: .*?[\'"`]?([\w.]+) is not in the ([\w:]+(?: \w+)*) registry': 'There is no type '
    '{0!r} ({1}).{near} Look at the spelling; one of your own is found once `custom_imports` '
    'names its module.',
    r'must contain the key "type", but got (.*?)(\\n|\n|$)': 'A part of the config has no `type`: '
    '{0}. A name that is misspelt in --cfg-options makes a new entry; look at its name.',
    r'FileNotFoundError: .*?No such file or directory: [\'"](.*)[\'"]': 'There is no file {0} '
    '(looked from {here}). Look at `data_root`, the prefixes and the annotations of the data set.',
    r'failed to load image: (.*)': '{0} cannot be read as an image: it is cut short, or no image. '
    'Replace it, or take it out of the annotations.',
    r'OpenCV.*buf\.empty': 'An image file is empty (0 bytes). `find FOLDER -size 0` finds it; '
    'replace it, or take it out of the annotations.',
    r'cannot identify image file (.*)': '{0} cannot be read as an image. Replace it, or take it '
    'out of the data.',
    r'need at least one array to concatenate': 'A data set is empty: no image is left in it. Look '
    'at its annotations or list of images, at `filter_cfg` (images without objects are left out) '
    'and at the class names in `metainfo`.',
    r'Annotation ids in (.*) are not unique': 'Annotation ids in {0} are not unique. Number the '
    'annotations anew.',
    r'Target (-?\d+) is out of bounds|index (\d+) is out of bounds|class values must be|'
    r'device-side assert': 'A label is beyond the classes of the student ({text}). Set '
    '`num_classes` of its heads to what the data has, or mend the labels (255 is ignored).',
    r'only batches of spatial targets supported': 'Label pictures have several channels; one '
    'channel with a class index in each pixel is expected. Convert them to indices.',
    r'stack expects each tensor to be equal size, but got (.*)': 'Images or labels of one batch '
    'have different sizes ({0}). A label picture may have another size than its image; else let '
    'the pipeline or the data preprocessor bring them to one size.',
    r'Expected more than 1 value per channel when training': 'A batch norm of the student got one '
    'value for each channel: raise `train_dataloader.batch_size` to 2 or more, or the size of the '
    'images.',
    r"doesn't match the size of optimizer's group|different number of parameter groups": 'The '
    "checkpoint's optimizer has other parameters than this training: losses or student were "
    'changed since. Resume with the config that it was trained with, or start anew from its '
    'weights (`load_from` without --resume).',
    r'PytorchStreamReader|unexpected EOF|EOFError|pickle data was truncated|invalid load key|'
    r'invalid magic number|Invalid magic number|corrupt': 'A checkpoint cannot be read ({text}): '
    'it is cut short or damaged. Copy or train it again; --resume without a path takes the newest '
    'whole one.',
    r'Weights only load failed': 'A checkpoint holds more than weights, and reading it could run '
    'code: {unsafe}. If you trust who made it: --trust-checkpoint.',
    r'CUDA out of memory|out of memory|not enough memory|[Cc]annot allocate memory': 'The memory '
    'is not enough ({text}). Lower `train_dataloader.batch_size` or the size of images, or run the '
    "teacher in half precision (`model.teacher.dtype='bfloat16'`).",
    r'DataLoader worker .* is killed by signal|DataLoader worker .* exited unexpectedly': 'A '
    'process that reads data was killed, often for want of memory ({text}). Lower '
    '`train_dataloader.num_workers` or `batch_size`, or raise the shared memory (/dev/shm).',
    r"Cannot cast scalar from dtype\(.*\) to dtype\('int64'\)": '`randomness.seed` is no whole '
    'number. Set it to one, such as 0.',
    r'Could not find (a )?(valid )?(cuda|CUDA)|Found no NVIDIA driver|Torch not compiled with '
    r'CUDA': 'There is no GPU that torch can use ({text}). Choose the CPU, or look at the driver.',
    r'(environment variable \w+ expected, but not set)': 'The launcher is not there: {0}. Start '
    'ranks by tools/dist_train.sh (or torchrun), or leave out --launcher.',
    r'Connection refused|Socket Timeout|Connection reset by peer|Connection closed by peer|'
    r'timed out after \d+': 'Another rank cannot be reached ({text}): it has ended, or the port is '
    'wrong. Its own output says why; after that, --resume.',
    r"'(\w+)' is not supported.*|([Uu]nsupported format|could not find a writer)": 'That kind of '
    'file cannot be written ({text}). Choose another ending, such as .png.',
    r'URLError|HTTPError': 'Something could not be fetched from the network ({text}). Fetch it '
    'on a machine with a network, and name the file instead.',
    r'Index (\d+) exceeds the length of list': 'A key of --cfg-options names the element {0} of a '
    'list that has fewer. Name one that is there, from 0, or the whole list.',
    r"cannot find context for '(\w+)'": 'env_cfg.mp_cfg.mp_start_method is {0!r}; it is fork, '
    'spawn or forkserver.',
    r'(\w+: .*) in <((?!kd_dense)[\w.]+) object at 0x': 'A hook failed ({1}): {0}. Look at its '
    'options in `default_hooks` and `custom_hooks`.',
    r'invalid hash value \(expected "(\w+)", got "(\w+)"\)': 'What was downloaded is not what its '
    'name says: the hash is {1}, the name says {0}. Download it again, from another place.',
}

# the same, where the code that runs is a model's; in ours it would be our fault
SHAPES = {
    r"TypeError: (?:(\w+)\.)?(\w+)\(\) got an unexpected keyword argument '(\w+)'": 'There is no '
    'option {2!r} of {0}.{1}. Look at the spelling of names in the config and in --cfg-options.',
    r'Given groups=\d+, weight of size (\[.*?\]), expected input(\[.*?\]) to have (\d+) channels, '
    r'but got (\d+) channels': 'Two parts of a model do not fit: a convolution with a weight of '
    'size {0} takes {2} channels and gets {3}. Look at `in_channels` and `out_channels` of '
    'backbone, neck and heads.',
    r'(mat1 and mat2 shapes cannot be multiplied.*|The size of tensor a \(\d+\) must match .*|'
    r'shape mismatch.*|shape .* is invalid for input of size.*)': 'Shapes do not fit: {0}. Look at '
    'sizes and channels in the config of the model, and at the classes of the data.',
}


def explain(error: BaseException) -> str | None:
    """A sentence with the way out, for what a user can cause; None for a fault of ours.

    Args:
        error: as it was caught.
    """
    if isinstance(error, SetupError):
        return str(error)
    if isinstance(error, FileNotFoundError | FileExistsError) and error.errno is None:
        return _phrase(error) or str(error)
    for rule in (_of_disk, _of_syntax, _of_text, _phrase, _of_arguments, _of_shapes, _of_built):
        if said := rule(error):
            return said
    return None


def _of_disk(error: BaseException) -> str | None:
    """Of an error of the file system."""
    if isinstance(error, UnicodeError) or not isinstance(error, OSError):
        return None
    template = DISK.get(error.errno or 0)
    if template is None:
        return None
    file = error.filename2 or error.filename or 'a file'
    shown = f"'{file}'" if not str(file).strip() else str(file)
    return template.format(file=shown, here=Path.cwd(), text=error.strerror)


def _of_syntax(error: BaseException) -> str | None:
    """Of a config that is no Python, or names what is not there."""
    config = _local(error, 'filename', str, within='mmengine/config/config.py')
    if isinstance(error, SyntaxError):
        place = f', line {error.lineno}' if error.lineno else ''
        variable = ' A quote in an environment variable that it names ends its text there, too.'
        source = str(config or error.filename)
        return f'{source} is no Python that can be read: {_brief(error)}{place}.' + (
            variable if source.endswith('.py') else ''
        )
    if config is None or not _raised_in(error, 'mmengine/config'):
        return None
    where = _line_of(error, str(config))
    if isinstance(error, ModuleNotFoundError | ImportError):
        return (
            f'{config} imports what is not there: {_brief(error)}. Install it, or put its folder '
            'on PYTHONPATH.'
        )
    return f'{config}{where} cannot be read: {type(error).__name__}: {_brief(error)}.'


def _of_text(error: BaseException) -> str | None:
    """Of a file that is not what its reader expects."""
    if isinstance(error, UnicodeDecodeError):
        file = _file_of(error)
        return f'{file} is not text in UTF-8 ({error.reason} at byte {error.start}). Convert it.'
    if type(error).__name__ == 'JSONDecodeError':
        return f'{_file_of(error)} is not JSON: {_brief(error)}. Make it again.'
    return None


def _phrase(error: BaseException) -> str | None:
    """By what a host says."""
    return _said(error, PHRASES)


def _of_shapes(error: BaseException) -> str | None:
    """By what a model says, or a host of its options."""
    return None if _is_ours(error) else _said(error, SHAPES)


def _said(error: BaseException, phrases: Mapping[str, str]) -> str | None:
    text = _innermost(error)
    for pattern, sentence in phrases.items():
        if found := re.search(pattern, text):
            groups = [group or '' for group in found.groups()]
            return sentence.format(
                *groups,
                text=_first_line(text),
                here=Path.cwd(),
                near=_near(error, groups[0]) if '{near}' in sentence else '',
                unsafe=_unsafe(text),
            )
    return None


def _of_arguments(error: BaseException) -> str | None:
    """Of an argument that a class in the config does not take, or one that it needs."""
    built = _built(error) if isinstance(error, TypeError) else None
    if built is None:
        return None
    start, kind, _ = built
    callee = re.search(r'(\w+)\.__(?:init|new)__\(\)|(\w+)\(\)', str(error))
    names = {each.__name__ for each in inspect.getmro(kind)} if inspect.isclass(kind) else set()
    if callee is None or (callee[1] or callee[2]) not in names | {getattr(kind, '__name__', '')}:
        return None
    if argument := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
        known = _arguments(kind)
        near = did_you_mean(argument[1], known)
        takes = f' It takes {listed(known[:12])}.' if known else ''
        return f'{start} has no argument {argument[1]!r}.{near}{takes}'
    if missing := re.search(r'missing \d+ required .* arguments?: (.*)', str(error)):
        return f'{start} needs {missing[1]}: set it in the config.'
    return None


def _of_built(error: BaseException) -> str | None:
    """Of an error while something was built from a config, in code that is not ours."""
    built = _built(error)
    last = list(_frames(error))[-1]
    ours = 'kd_dense' in Path(last.f_code.co_filename).parts and not _is_in(last, 'building.py')
    if built is None or (ours and not isinstance(error, TypeError)):
        return None
    start, _, values = built
    plain = (str, int, float, type(None))
    given = [f'{k}={v!r}' for k, v in values.items() if k != 'type' and isinstance(v, plain)]
    shown = f': {", ".join(given[:6])}' if given else ''
    return f'{start} cannot be built from the config: {_brief(error)}. Look at its values{shown}.'


def _built(error: BaseException) -> tuple[str, Any, Mapping[str, Any]] | None:
    """What was built when an error came: where the config names it, its class, its values."""
    frames = [f for f in _frames(error) if _is_in(f, 'build_functions.py', 'building.py')]
    frame = next((each for each in reversed(frames) if _kind(each) is not None), None)
    if frame is None:
        return None
    kind, found = _kind(frame), frame.f_locals
    values = found.get('cfg') or found.get('config') or {}
    name = getattr(kind, '__name__', str(kind))
    where = found.get('where') or _place(error, values) or name
    return (f'{where} ({name})' if where != name else name), kind, values


def _kind(frame: Any) -> Any:
    """The class that a frame of a registry was building."""
    return frame.f_locals.get('obj_cls') or frame.f_locals.get('kind')


# -- looking closer at an error ----------------------------------------------------------------


def _innermost(error: BaseException) -> str:
    """``TypeName: message``, of an error in a data worker the one that was raised there."""
    text = f'{type(error).__name__}: {error}'
    if found := IN_WORKER.search(text):
        lines = text.strip().splitlines()
        last = next((i for i in range(len(lines) - 1, 0, -1) if found[1] in lines[i]), None)
        return text if last is None else '\n'.join(lines[last:])
    return text


def _first_line(text: str, most: int = 160) -> str:
    """The first line of a message, without the type of the error before it."""
    lines = text.split(': ', 1)[-1].strip().splitlines() or ['it is empty']
    return re.sub(r'\s+', ' ', lines[0])[:most].rstrip(' .')


def _brief(error: BaseException) -> str:
    """What an error says in a line; of one without words, the line of code that raised it."""
    if isinstance(error, SyntaxError):
        return error.msg
    if str(error).strip():
        return _first_line(f': {error}')
    frames = traceback.extract_tb(error.__traceback__)
    return f'{type(error).__name__}' + (f' at `{frames[-1].line}`' if frames else '')


def _unsafe(text: str) -> str:
    name = asked_for(text)
    return f'it asks for `{name}`' if name else 'it asks for more than tensors and numbers'


def _frames(error: BaseException) -> Iterator[Any]:
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_in(frame: Any, *names: str) -> bool:
    return Path(frame.f_code.co_filename).name in names


def _is_ours(error: BaseException) -> bool:
    """Whether code of ours raised it, or called what of torch did."""
    files = [Path(f.co_filename).parts for f in (each.f_code for each in _frames(error))]
    others = [parts for parts in files if 'torch' not in parts]
    return bool(others) and 'kd_dense' in others[-1]


def _raised_in(error: BaseException, folder: str) -> bool:
    return any(folder in frame.f_code.co_filename for frame in _frames(error))


def _local(error: BaseException, name: str, kind: type, within: str = '') -> Any:
    """The outermost local variable of a name and kind in an error's frames; None without."""
    for frame in _frames(error):
        value = frame.f_locals.get(name)
        if within in frame.f_code.co_filename and isinstance(value, kind):
            return value
    return None


def _line_of(error: BaseException, config: str) -> str:
    path = os.path.abspath(config)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f', line {lines[-1]},' if lines else ''


def _file_of(error: BaseException) -> str:
    """The file that was being read, as far as the frames tell."""
    for frame in reversed(list(_frames(error))):
        for name in ('self', 'path', 'file', 'filename', 'local_path', 'annotation_file'):
            value = frame.f_locals.get(name)
            if isinstance(value, str | os.PathLike) and os.path.isfile(value):
                return str(value)
    return 'A file'


def _place(error: BaseException, values: Any) -> str:
    """Where in the config some part is: ``'optim_wrapper.optimizer'``; empty where not found."""
    config = _local(error, 'config', Config) or _local(error, 'cfg', Config)
    if config is None or not isinstance(values, Mapping):
        return ''
    return next(_places(config, values, ''), '')


def _places(part: Any, wanted: Mapping[str, Any], where: str) -> Iterator[str]:
    if isinstance(part, Mapping | Config):
        if where and 'type' in part and all(wanted.get(k) == v for k, v in part.items()):
            yield where
        inside = part.items()
    elif isinstance(part, list | tuple):
        inside = ((str(i), each) for i, each in enumerate(part))
    else:
        return
    for key, each in inside:
        yield from _places(each, wanted, f'{where}.{key}' if where else str(key))


def _arguments(kind: Callable[..., Any]) -> list[str]:
    """Names that a class takes, with those of its base classes where it hands on the rest."""
    names: dict[str, None] = {}
    for each in inspect.getmro(kind) if inspect.isclass(kind) else (kind,):
        target = vars(each).get('__init__') if inspect.isclass(each) else each
        if target is None or each is object:
            continue
        try:
            parameters = inspect.signature(target).parameters.values()
        except (TypeError, ValueError):
            return list(names)
        named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        names |= {p.name: None for p in parameters if p.kind in named and p.name != 'self'}
        if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def _near(error: BaseException, name: str) -> str:
    """A registered type of nearly the same name."""
    for frame in reversed(list(_frames(error))):
        registry = frame.f_locals.get('registry')
        if isinstance(registry, Registry):
            return did_you_mean(name.split('.')[-1], sorted(_names(registry.root)))
    return ''


def _names(registry: Registry) -> set[str]:
    names = set(registry.module_dict)
    return names.union(*map(_names, registry.children.values()))
