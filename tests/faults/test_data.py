"""Wrong data: each row spoils a file, and ends in words, or in a warning with a count."""

import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.faults.world import World, call, train

Spoil = Callable[[World], object]
JPEGS, XMLS = 'digits/VOC2007/JPEGImages', 'digits/VOC2007/Annotations'
TRAIN = 'digits/annotations/train.json'


def each(key: str, value: object, share: int = 1) -> Spoil:
    """Set a key of every so many annotations."""

    def change(content: dict) -> None:
        for entry in content['annotations'][::share]:
            entry[key] = value

    return lambda world: world.edit_json(change)


def boxes(change: Callable[[list], list], share: int = 2) -> Spoil:
    """Change the box of every so many annotations."""

    def spoil(content: dict) -> None:
        for entry in content['annotations'][::share]:
            entry['bbox'] = change(entry['bbox'])

    return lambda world: world.edit_json(spoil)


def edit(change: Callable[[dict], object], split: str = 'train') -> Spoil:
    """Change a split's annotations."""
    return lambda world: world.edit_json(change, split)


def write(name: str, content: bytes) -> Spoil:
    """Replace a file."""
    return lambda world: (world / name).write_bytes(content)


def cut(name: str, keep: float) -> Spoil:
    """Keep a part of a file."""

    def spoil(world: World) -> None:
        content = (world / name).read_bytes()
        (world / name).write_bytes(content[: int(len(content) * keep)])

    return spoil


def picture(content: bytes | None) -> Spoil:
    """Replace the first training image, or remove it."""

    def spoil(world: World) -> None:
        path = world.first_image()
        path.unlink() if content is None else path.write_bytes(content)

    return spoil


def latin(world: World) -> None:
    """A file name with an accent, not in UTF-8."""
    text = (world / TRAIN).read_bytes().replace(b'train_000001', b'caf\xe9_000001')
    (world / TRAIN).write_bytes(text)


def truncated(world: World) -> None:
    """Every training image ends in its middle."""
    for path in (world / JPEGS).glob('train_*'):
        path.write_bytes(path.read_bytes()[:600])


def pop(part: str, key: str) -> Spoil:
    """Remove a key of the first entry."""
    return edit(lambda content: content[part][0].pop(key))


def double(part: str) -> Spoil:
    """Give the second entry the id of the first."""
    return edit(lambda content: content[part][1].update(id=content[part][0]['id']))


ERRORS = [
    ('json of 0 bytes', write(TRAIN, b''), r'train\.json is empty \(0 bytes\)\. Make the'),
    ('json cut short', cut(TRAIN, 0.6), r'train\.json is not JSON: .*Make the file again'),
    ('json in latin-1', latin, r'train\.json is not text in UTF-8 \(.* at byte \d+\)'),
    ('json of a list', write(TRAIN, b'[]'), r'train\.json holds a list, not annotations'),
    ('json of nothing', write(TRAIN, b'{}'), r'has no `images` and no `categories`'),
    ('json without images', edit(lambda c: c.update(images=[])), r'has no `images`'),
    ('json without categories', edit(lambda c: c.pop('categories')), r'has no `categories`'),
    ('category without name', pop('categories', 'name'), r'a category has no `id` or `name`'),
    ('image without id', pop('images', 'id'), r'1 images have no `id`'),
    ('image without file_name', pop('images', 'file_name'), r'1 images have no `file_name`'),
    ('image without width', pop('images', 'width'), r'1 images have no `width`'),
    ('annotation without bbox', pop('annotations', 'bbox'), r'1 annotations have no `bbox`'),
    ('annotation without area', pop('annotations', 'area'), r'1 annotations have no `area`'),
    ('annotation without category', pop('annotations', 'category_id'), r'no `category_id`'),
    ('annotation without image', pop('annotations', 'image_id'), r'no `image_id`'),
    ('bbox of 3 numbers', boxes(lambda box: box[:3]), r'boxes are not four numbers \(x, y, width'),
    ('bbox of words', boxes(lambda box: ['a', *box[1:]]), r'boxes are not four numbers'),
    ('bbox of nothing', each('bbox', None), r'boxes are not four numbers .* None of annotation'),
    ('two images of one id', double('images'), r'1 ids of images are there more than once'),
    ('two annotations of one id', double('annotations'), r'1 ids of annotations are there more'),
    ('no annotations', edit(lambda c: c.update(annotations=[])), r'no object to learn from: 0'),
    ('all boxes empty', boxes(lambda box: [*box[:2], 0, 0], 1), r'no object to learn from'),
    ('all crowds', each('iscrowd', 1), r'no object to learn from'),
    ('no category known', each('category_id', 99), r'no object to learn from: \d+ boxes, none'),
    (
        'other class names',
        edit(lambda c: [e.update(name=f'x{e["id"]}') for e in c['categories']]),
        r'no object to learn from|wrong names',
    ),
    (
        'categories in another order',
        edit(lambda c: c['categories'].reverse()),
        r'Labels would be called by wrong names',
    ),
    ('image missing', picture(None), r'1 of 12 images are not there \(first: .*train_000000\.jpg'),
    ('image of 0 bytes', picture(b''), r'1 of 12 images are empty \(0 bytes\) \(first: '),
    ('image of text', picture(b'no image'), r'1 image files are no images \(first: '),
    ('images cut short', truncated, r'12 image files are no images'),
    ('val json of 0 bytes', write('digits/annotations/val.json', b''), r'val\.json is empty'),
    ('val image missing', lambda w: w.first_image('val').unlink(), r'1 of 6 images are not there'),
    (
        'val duplicated ids',
        edit(lambda c: c['images'][1].update(id=c['images'][0]['id']), 'val'),
        r'val\.json: 1 ids of images',
    ),
    (
        'an image out of the folder',
        edit(lambda c: c['images'][0].update(file_name='../../../ld.py')),
        r'1 image files are no images \(first: .*\.\./\.\./\.\./ld\.py\)',
    ),
    (
        'an absolute path of no image',
        edit(lambda c: c['images'][0].update(file_name='/etc/hostname')),
        r'1 image files are no images \(first: /etc/hostname\)',
    ),
    ('images folder empty', lambda w: shutil.rmtree(w / JPEGS), r'12 of 12 images are not there'),
    ('a folder for annotations', lambda w: [(w / TRAIN).unlink(), (w / TRAIN).mkdir()],
     r'train\.json., which is no file'),
]  # fmt: skip


@pytest.mark.parametrize(('spoil', 'words'), [r[1:] for r in ERRORS], ids=[r[0] for r in ERRORS])
def test_spoilt_annotations_end_a_training(world, spoil, words):
    spoil(world)
    done = train(world)
    assert done.code == 1, done.text
    assert re.search(words, done.text, re.DOTALL), done.text


NAN, INF = float('nan'), float('inf')
WARNINGS = [
    ('unknown category', each('category_id', 99, 3),
     r'\d+ of \d+ boxes are left out: \d+ of the category id 99, which no category has \(first: '),
    ('width 0', boxes(lambda b: [*b[:2], 0, b[3]]), r'of a width or height below 1 pixel'),
    ('negative width', boxes(lambda b: [*b[:2], -5, b[3]]), r'of negative width or height \(first'),
    ('a coordinate of NaN', boxes(lambda b: [NAN, *b[1:]], 9), r'coordinate that is not finite'),
    ('a coordinate of inf', boxes(lambda b: [INF, *b[1:]], 9), r'coordinate that is not finite'),
    ('a coordinate of 1e30', boxes(lambda b: [1e30, *b[1:]], 9), r'outside of their image'),
    ('outside', boxes(lambda b: [5000, 5000, *b[2:]], 9), r'\d+ outside of their image \(first: '),
    ('image_id of no image', each('image_id', 77777, 5), r'of an image id that no image has'),
    ('no area', each('area', 0, 5), r'\d+ of no area \(first: '),
    ('other sizes', edit(lambda c: [e.update(width=9999) for e in c['images'][:3]]),
     r'3 images have another size than the annotations say \(first: .* x .*, not 9999 x'),
    ('val: width 0', edit(lambda c: c['annotations'][0].update(bbox=[3, 3, 0, 9]), 'val'),
     r'val_dataloader: .*1 of \d+ boxes are left out'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('spoil', 'words'), [r[1:] for r in WARNINGS], ids=[r[0] for r in WARNINGS]
)
def test_dropped_boxes_are_counted_and_named_before_a_training(world, spoil, words):
    spoil(world)
    world.options['train_cfg.max_iters'] = 1
    done = train(world)
    assert done.code == 0, done.text
    assert re.search(words, done.text, re.DOTALL), done.text


def test_a_picture_of_one_pixel(world):
    path = world.first_image()
    Image.new('RGB', (1, 1)).save(path)
    world.edit_json(lambda content: content['images'][0].update(width=1, height=1))
    done = train(world)
    assert '1 of 12 images have a side below 8 pixels (first: train_000000.jpg, 1 x 1)' in done.text


CHECKED = [
    ('unknown category', each('category_id', 99, 3), 0, r'of the category id 99, which'),
    ('two images of one id', double('images'), 1, r'1 ids of images are there more than once'),
    ('json cut short', cut(TRAIN, 0.6), 1, r'train\.json is not JSON'),
    ('image missing', lambda w: (w / JPEGS / 'train_000011.jpg').unlink(), 1,
     r'1 of 12 images are not there'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('spoil', 'code', 'words'), [r[1:] for r in CHECKED], ids=[r[0] for r in CHECKED]
)
def test_the_check_finds_it_too(world, spoil, code, words):
    spoil(world)
    done = call(world, 'check', 'ld.py', '--steps', '0')
    assert done.code == code, done.text
    assert re.search(words, ' '.join(done.text.split())), done.text
    assert 'Nothing is wrong' not in done.text


# -- VOC ---------------------------------------------------------------------------------------


def voc(world: World) -> None:
    """Let the detector read the data in the form of VOC."""

    def change(config) -> None:
        for part, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
            data = config[f'{part}_dataloader'].dataset
            data.type, data.data_root = 'XMLDataset', 'digits/VOC2007/'
            data.ann_file, data.data_prefix = f'ImageSets/Main/{split}.txt', dict(sub_data_root='')
            config[f'{part}_evaluator'] = dict(type='VOCMetric', metric='mAP')

    world.edit_config(change)


def xml(old: str, new: str, every: bool = False) -> Spoil:
    """Replace text in the annotations of the first training image, or of all."""

    def spoil(world: World) -> None:
        for path in sorted((world / XMLS).glob('train_*'))[: None if every else 1]:
            text = path.read_text()
            changed = re.sub(old, new, text, count=0 if every else 1, flags=re.DOTALL)
            assert changed != text
            path.write_text(changed)

    return spoil


VOC = [
    ('xml of 0 bytes', xml('^.*$', ''), 1, r'1 annotation files are not XML: no element found'),
    ('xml malformed', xml('</annotation>', ''), 1, r'1 annotation files are not XML'),
    ('xml missing', lambda w: next((w / XMLS).glob('train_*')).unlink(), 1, r'are not there'),
    ('empty name', xml('<name>[^<]*</name>', '<name></name>'), 1, r'1 objects have no name'),
    ('xmin=abc', xml('<xmin>[^<]*', '<xmin>abc'), 1, r'1 boxes are not four numbers \(abc, '),
    ('xmin=nan', xml('<xmin>[^<]*', '<xmin>nan'), 1, r'coordinate that is not finite'),
    ('no xmax', xml('<xmax>[^<]*</xmax>', ''), 1, r'boxes are not four numbers \(.*None'),
    ('unknown class', xml('<name>[^<]*', '<name>elf'), 0, r"1 objects of the class 'elf', which"),
    ('all unknown', xml('<name>[^<]*', '<name>elf', True), 1, r'no image with an object'),
    ('xmax below xmin', xml('<xmax>[^<]*', '<xmax>0'), 0, r'1 boxes have no width or height'),
    ('image missing', picture(None), 1, r'1 of 12 images are not there'),
    ('empty list', write('digits/VOC2007/ImageSets/Main/train.txt', b''), 1, r'names no image'),
]


@pytest.mark.parametrize(
    ('spoil', 'code', 'words'), [r[1:] for r in VOC], ids=[f'voc: {r[0]}' for r in VOC]
)
def test_spoilt_voc_annotations(world, spoil, code, words):
    voc(world)
    spoil(world)
    done = train(world)
    assert done.code == code, done.text
    assert re.search(words, done.text), done.text


# -- label pictures ----------------------------------------------------------------------------


def label(change: Callable[[np.ndarray], np.ndarray], split: str = 'train') -> Spoil:
    """Change the first label picture of a split."""

    def spoil(world: World) -> None:
        path = world / f'shapes/labels/{split}/0.png'
        Image.fromarray(change(np.array(Image.open(path)))).save(path)

    return spoil


LABELS = [
    ('class 13', label(lambda a: np.where(a == 1, 13, a).astype('u1')), r'beyond the 3 classes'),
    ('class 3', label(lambda a: np.full_like(a, 3)), r'1 label pictures hold labels beyond the 3'),
    ('RGB', label(lambda a: np.stack([a] * 3, -1)), r'1 label pictures have several channels'),
    ('RGBA', label(lambda a: np.stack([a] * 4, -1)), r'several channels \(RGBA\)'),
    ('another size', label(lambda a: a[:20, :30]), r'have another size than their images'),
    ('label missing', lambda w: (w / 'shapes/labels/train/0.png').unlink(),
     r'1 of 6 label pictures are not there \(first: '),
    ('label of 0 bytes', write('shapes/labels/train/0.png', b''), r'label pictures are empty'),
    ('label of text', write('shapes/labels/train/0.png', b'text'), r'cannot be read as pictures'),
    ('image of 0 bytes', write('shapes/images/train/0.png', b''), r'1 of 6 images are empty'),
    ('no images', lambda w: shutil.rmtree(w / 'shapes/images/train'),
     r'There is no file shapes/images/train'),
    ('images of another ending', lambda w: [p.rename(p.with_suffix('.bmp'))
     for p in (w / 'shapes/images/train').iterdir()], r'names no image \(ending \.png\)'),
    ('val: class 13', label(lambda a: np.full_like(a, 13), 'val'), r'hold labels beyond'),
    ('all pixels of class 200', lambda w: [
        Image.fromarray(np.full((64, 64), 200, 'u1')).save(p)
        for p in (w / 'shapes/labels/train').iterdir()], r'6 label pictures hold labels beyond'),
]  # fmt: skip


@pytest.mark.parametrize(('spoil', 'words'), [r[1:] for r in LABELS], ids=[r[0] for r in LABELS])
def test_spoilt_labels(world, spoil, words):
    spoil(world)
    done = train(world, config='seg.py')
    assert done.code == 1, done.text
    assert re.search(words, done.text), done.text


def test_a_segmentation_of_one_pixel(world):
    for folder in ('images', 'labels'):
        Image.new('RGB' if folder == 'images' else 'L', (1, 1)).save(
            world / f'shapes/{folder}/train/0.png'
        )
    done = train(world, config='seg.py')
    assert done.code == 1, done.text
    assert 'images have a side below 8 pixels (first: shapes/images/train/0.png)' in done.text


def test_a_segmentation_by_an_empty_list(world):
    (world / 'train.txt').write_text('')
    folder = world.folder
    world.options['train_dataloader.dataset.ann_file'] = str(folder / 'train.txt')
    done = train(world, config='seg.py')
    assert done.code == 1, done.text
    assert 'train.txt names no image' in done.text


# -- what only the training meets, the look before it left out ----------------------------------


def every(folder: str, change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Change every training picture of the segmentation in a folder."""

    def spoil(world: World) -> None:
        for path in (world / f'shapes/{folder}/train').iterdir():
            Image.fromarray(change(np.array(Image.open(path)))).save(path)

    return spoil


def all_images(content: bytes | None) -> Spoil:
    """Replace or remove every training image of the detection."""

    def spoil(world: World) -> None:
        for path in (world / JPEGS).glob('train_*'):
            path.unlink() if content is None else path.write_bytes(content)

    return spoil


MET = [
    ('images missing', 'ld.py', 0, all_images(None), r'There is no file .*train_0000\d\d\.jpg'),
    ('images missing, a worker', 'ld.py', 1, all_images(None), r'There is no file .*\.jpg'),
    ('images of text', 'ld.py', 0, all_images(b'text'), r'\.jpg cannot be read as an image'),
    ('images of text, a worker', 'ld.py', 1, all_images(b'text'), r'\.jpg cannot be read as an im'),
    ('images of 0 bytes', 'ld.py', 0, all_images(b''), r'is empty \(0 bytes\)'),
    ('no annotation fits', 'ld.py', 0, write(TRAIN, b'{"images": [], "annotations": [], '
     b'"categories": [{"id": 1, "name": "one"}]}'), r'A data set is empty: no image is left'),
    ('bbox of 3 numbers', 'ld.py', 0, boxes(lambda b: b[:3]), r'CocoDataset\) cannot be built'),
    ('json cut short', 'ld.py', 0, cut(TRAIN, 0.6), r'train\.json is not JSON'),
    ('class 13', 'seg.py', 0, every('labels', lambda a: np.full_like(a, 13)),
     r'A label is beyond the classes of the student .*num_classes'),
    ('RGB labels', 'seg.py', 0, every('labels', lambda a: np.stack([a] * 3, -1)),
     r'Label pictures have several channels|different sizes|Shapes do not fit'),
    ('labels of another size', 'seg.py', 0, label(lambda a: a[:20, :30]),
     r'Images or labels of one batch have different sizes'),
]  # fmt: skip


@pytest.mark.parametrize(
    ('config', 'workers', 'spoil', 'words'), [r[1:] for r in MET], ids=[f'met: {r[0]}' for r in MET]
)
def test_what_a_training_meets(world, config, workers, spoil, words):
    spoil(world)
    world.options |= {'train_dataloader.num_workers': workers, 'train_cfg.max_iters': 6}
    done = train(world, '--no-check', config=config)
    assert done.code == 1, done.text
    assert re.search(words, done.text), done.text[-2000:]
