"""The embedded dataset: split, determinism, agreement of its formats, and building it again."""

import hashlib
import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from kd_dense.datasets import CLASSES, SceneSettings, export, make_digits
from kd_dense.datasets.digits import load_handwriting, split_handwriting, warp_glyph
from kd_dense.datasets.scenes import _overlap, _place_digits, draw_scene
from kd_dense.errors import SetupError

# Crowded, so that borders cut and digits cover each other in a few scenes already.
SMALL = SceneSettings(size=96, digits=(3, 7), height=(12.0, 40.0), max_cut=0.4)
ROOT = Path(__file__).parents[2]


def build(out: Path, **kwargs) -> Path:
    kwargs = {'settings': SMALL, 'train': 9, 'val': 3, 'progress': False, **kwargs}
    return make_digits(out, **kwargs)


def digest(root: Path) -> str:
    """Hash the names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob('*') if p.is_file()):
        total.update(str(path.relative_to(root)).encode() + b'\0' + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp('data') / 'digits')


@pytest.fixture(scope='module')
def handwriting():
    return load_handwriting(0, 0.25)


def coco_of(root: Path, split: str) -> COCO:
    return COCO(str(root / f'annotations/{split}.json'))


def visible(coco: COCO, image: dict) -> list[tuple[dict, np.ndarray]]:
    """Return the annotations of an image with their masks."""
    found = coco.loadAnns(coco.getAnnIds(image['id']))
    return [(ann, coco.annToMask(ann).astype(bool)) for ann in found]


# Handwriting


def test_train_and_val_share_no_handwriting(handwriting):
    train, val = handwriting['train'], handwriting['val']
    assert len(train.labels) + len(val.labels) == 1797
    seen = {glyph.tobytes() for glyph in train.glyphs}
    assert not seen & {glyph.tobytes() for glyph in val.glyphs}


def test_split_is_a_partition_by_class_and_seed():
    labels = np.repeat(np.arange(10), 40)
    train, val = split_handwriting(labels, 0, 0.25)
    assert sorted([*train, *val]) == list(range(400))
    assert np.bincount(labels[val]).tolist() == [10] * 10
    assert np.array_equal(val, split_handwriting(labels, 0, 0.25)[1])
    assert not np.array_equal(val, split_handwriting(labels, 1, 0.25)[1])


def test_scenes_draw_from_the_handwriting_of_their_split(tmp_path, monkeypatch):
    drawn = []

    def spy(rng, handwriting, settings, empty):
        drawn.append(len(handwriting.labels))
        return draw_scene(rng, handwriting, settings, empty)

    monkeypatch.setattr(export, 'draw_scene', spy)
    build(tmp_path / 'digits', train=2, val=1)
    assert drawn == [1347, 1347, 450]


@pytest.mark.parametrize('height', [12, 30, 72])
def test_ink_is_as_tall_as_asked(handwriting, height):
    rng = np.random.default_rng(0)
    for glyph in handwriting['train'].glyphs[:40]:
        alpha = warp_glyph(rng, glyph, height, SceneSettings())
        rows = np.flatnonzero((alpha > 0.5).any(1))
        assert abs(rows[-1] - rows[0] + 1 - height) <= 2
        edges = [alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]]
        assert max(edge.max() for edge in edges) < 0.5, 'the patch cuts its ink'


# Determinism


def test_same_seed_same_bytes(root, tmp_path):
    assert digest(build(tmp_path / 'again')) == digest(root)
    assert digest(build(tmp_path / 'other', seed=1)) != digest(root)


def test_a_scene_does_not_depend_on_how_many_there_are(root, tmp_path):
    fewer = build(tmp_path / 'fewer', train=3, val=1)
    for name in ('train_000002', 'val_000000'):
        path = f'VOC2007/JPEGImages/{name}.jpg'
        assert (fewer / path).read_bytes() == (root / path).read_bytes()


# Formats


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_and_areas_are_those_of_the_masks(root, split):
    coco = coco_of(root, split)
    assert coco.anns
    for image in coco.imgs.values():
        for ann, mask in visible(coco, image):
            y, x = np.nonzero(mask)
            corner = [x.min(), y.min()]
            assert ann['bbox'] == [*corner, x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert ann['area'] == mask.sum()
            assert mask.shape == (SMALL.size, SMALL.size)
            assert ann['iscrowd'] == 0


@pytest.mark.parametrize('split', ['train', 'val'])
def test_voc_says_what_coco_says(root, split):
    coco = coco_of(root, split)
    for image in coco.imgs.values():
        stem = Path(image['file_name']).stem
        tree = ElementTree.parse(root / f'VOC2007/Annotations/{stem}.xml')
        assert tree.findtext('filename') == image['file_name']
        assert int(tree.findtext('size/width')) == image['width'] == SMALL.size
        found = []
        for entry in tree.iter('object'):
            corners = [
                int(entry.findtext(f'bndbox/{key}')) for key in ('xmin', 'ymin', 'xmax', 'ymax')
            ]
            found.append((entry.findtext('name'), *corners))
            assert entry.findtext('difficult') == '0'
        expected = []
        for ann, _ in visible(coco, image):
            x, y, w, h = ann['bbox']
            name = CLASSES[ann['category_id'] - 1]
            expected.append((name, x + 1, y + 1, x + w, y + h))
        assert found == expected


@pytest.mark.parametrize('split', ['train', 'val'])
def test_label_images_are_the_masks(root, split):
    coco = coco_of(root, split)
    for image in coco.imgs.values():
        expected = np.zeros((SMALL.size, SMALL.size), np.uint8)
        for ann, mask in visible(coco, image):
            assert not expected[mask].any(), 'two digits share a pixel'
            expected[mask] = ann['category_id']
        stem = Path(image['file_name']).stem
        label = np.array(Image.open(root / f'VOC2007/SegmentationClass/{stem}.png'))
        assert label.dtype == np.uint8
        assert np.array_equal(label, expected)


@pytest.mark.parametrize(('split', 'count'), [('train', 9), ('val', 3)])
def test_every_list_names_the_images(root, split, count):
    names = [f'{split}_{i:06d}' for i in range(count)]
    for kind in ('Main', 'Segmentation'):
        listed = (root / f'VOC2007/ImageSets/{kind}/{split}.txt').read_text().splitlines()
        assert listed == names
    coco = coco_of(root, split)
    assert [image['file_name'] for image in coco.imgs.values()] == [f'{n}.jpg' for n in names]
    for name in names:
        image = Image.open(root / f'VOC2007/JPEGImages/{name}.jpg')
        assert image.size == (SMALL.size, SMALL.size)
        assert image.mode == 'RGB'


def test_categories_are_the_digits_from_one_to_ten(root):
    categories = coco_of(root, 'val').dataset['categories']
    assert [(c['id'], c['name']) for c in categories] == list(enumerate(CLASSES, 1))
    assert (CLASSES[0], CLASSES[9], len(CLASSES)) == ('zero', 'nine', 10)


# Scenes


def draw(handwriting, index: int, settings: SceneSettings, empty: bool = False):
    return draw_scene(np.random.default_rng(index), handwriting['train'], settings, empty)


def test_uncovered_digits_have_the_heights_asked_for(handwriting):
    settings = replace(SMALL, height=(16.0, 24.0), max_overlap=0.0, max_cut=0.0)
    heights = []
    for index in range(20):
        masks = draw(handwriting, index, settings).masks
        heights += [np.ptp(np.flatnonzero(mask.any(1))) + 1 for mask in masks]
    assert len(heights) > 60
    assert 14 <= min(heights) < 19
    assert 21 < max(heights) <= 26


def test_digits_stay_visible_and_apart_or_are_left_out(handwriting):
    settings = replace(SMALL, height=(30.0, 40.0), min_visible=0.8, max_overlap=0.5)
    counts, hidden = [], 0
    for index in range(20):
        rng = np.random.default_rng(index)
        strokes, labels, owner = _place_digits(rng, handwriting['val'], settings, 30)
        assert len(strokes) == len(labels)
        counts.append(len(strokes))
        for i, stroke in enumerate(strokes):
            ink = (stroke.alpha > 0.5).sum()
            assert (owner == i).sum() >= 0.8 * ink
            hidden += (owner == i).sum() < ink
            assert all(_overlap(stroke, other) <= 0.5 for other in strokes[:i])
    assert min(counts) > 3 and max(counts) < 30
    assert hidden > 20


def test_a_digit_left_out_is_not_drawn(handwriting):
    plain = replace(SMALL, clutter=0.0, distractors=(0, 0), noise=0.0, blur=(0.0, 0.0))
    settings = replace(plain, digits=(30, 30), contrast=(0.4, 0.4), opacity=(1.0, 1.0))
    for index in range(5):
        scene = draw(handwriting, index, replace(settings, height=(20.0, 20.0)))
        image = scene.image.astype(int)
        ground = draw(handwriting, index, replace(settings, digits=(0, 0))).image
        assert (ground == ground[0, 0]).all(), 'no clutter is a flat ground'
        flat = np.median(image[~scene.masks.any(0)], 0)
        drawn = np.abs(image - flat).max(-1) > 25
        ink = scene.masks.any(0)
        around = cv2.dilate(ink.astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert not (drawn & ~around).any()
        assert drawn[ink].mean() > 0.8
        assert 0 < len(scene.masks) < 30


def test_truncated_means_cut_by_the_border(handwriting):
    settings = replace(SMALL, digits=(1, 1), height=(40.0, 40.0))
    flags = []
    for index in range(60):
        scene = draw(handwriting, index, settings)
        mask, cut = scene.masks[0], scene.truncated[0]
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        tall = np.ptp(np.flatnonzero(mask.any(1))) + 1
        assert edge.any() if cut else tall >= 38
        flags.append(cut)
    assert 10 < sum(flags) < 50


def test_voc_keeps_whether_a_digit_is_truncated(root, handwriting):
    flags = []
    for index in range(3):
        scene = draw_scene(np.random.default_rng([0, 1, index]), handwriting['val'], SMALL)
        tree = ElementTree.parse(root / f'VOC2007/Annotations/val_{index:06d}.xml')
        found = [entry.findtext('truncated') for entry in tree.iter('object')]
        assert found == [str(int(cut)) for cut in scene.truncated]
        flags += found
    assert set(flags) == {'0', '1'}


def test_empty_scenes_are_written_like_others(tmp_path):
    root = build(tmp_path / 'digits', settings=replace(SMALL, empty=1.0), train=2, val=2)
    coco = coco_of(root, 'train')
    assert len(coco.imgs) == 2
    assert not coco.anns
    tree = ElementTree.parse(root / 'VOC2007/Annotations/train_000000.xml')
    assert tree.find('object') is None
    label = np.array(Image.open(root / 'VOC2007/SegmentationClass/train_000000.png'))
    assert not label.any()
    assert coco_of(root, 'val').anns, 'validation scenes always hold digits'


@pytest.mark.parametrize(
    ('wrong', 'match'),
    [
        ({'digits': (7, 2)}, r'digits must be 0 or more, low end first; got \(7, 2\)'),
        ({'noise': -1.0}, 'noise must be 0 or more'),
        ({'max_overlap': 1.5}, 'max_overlap is a share of 1 at most; got 1.5'),
        ({'contrast': (0.5, 1.5)}, 'contrast is a share of 1 at most'),
        ({'height': (12.0, 200.0)}, 'height must lie within 4 pixels and the size of the scene'),
        ({'stroke': (0.0, 0.5)}, 'stroke must lie within 0.1 and 0.7'),
        ({'aspect': (0.0, 1.0)}, 'aspect must be more than 0'),
        ({'val_handwriting': 1.0}, 'val_handwriting must lie between 0 and 1'),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        SceneSettings(**wrong)


# Building again


def test_the_marker_tells_what_was_built(root):
    marker = json.loads((root / 'digits.json').read_text())
    assert (marker['seed'], marker['images']) == (0, {'train': 9, 'val': 3})
    assert marker['settings']['size'] == SMALL.size
    assert marker['objects'] == {s: len(coco_of(root, s).anns) for s in ('train', 'val')}
    assert coco_of(root, 'val').dataset['info']['settings'] == marker['settings']


def test_the_same_build_is_skipped(root, monkeypatch, capsys):
    monkeypatch.setattr(export, '_write', lambda *args: pytest.fail('built again'))
    assert build(root, progress=True) == root
    assert 'already there' in capsys.readouterr().out


def test_an_interrupted_build_leaves_nothing_and_starts_over(root, tmp_path, monkeypatch):
    out = tmp_path / 'digits'
    out.mkdir()  # empty: may be built in

    def interrupt(*args):
        if len(list(tmp_path.rglob('*.jpg'))) == 4:
            raise KeyboardInterrupt
        return draw_scene(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(export, 'draw_scene', interrupt)
        build(out)
    assert not any(out.iterdir())
    assert digest(build(out)) == digest(root)
    assert [path.name for path in tmp_path.iterdir()] == ['digits']


def test_other_settings_are_refused_unless_forced(root, tmp_path):
    out = build(tmp_path / 'digits', train=2, val=1)
    with pytest.raises(FileExistsError, match=r'other settings \(train 2, not 9, val 1, not 3\)'):
        build(out)
    other = replace(SMALL, clutter=0.25)
    with pytest.raises(FileExistsError, match=r'clutter 0.5, not 0.25.*--force.*another folder'):
        build(out, train=2, val=1, settings=other)
    assert digest(build(out, force=True)) == digest(root)


@pytest.mark.parametrize('force', [False, True])
def test_a_folder_that_is_not_ours_is_never_touched(tmp_path, force):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(FileExistsError, match='is not a dataset of digits'):
        build(tmp_path, force=force)
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


def test_without_scikit_learn_it_names_the_extra_and_builds_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)  # an import of it fails
    with pytest.raises(SetupError, match=r"comes with scikit-learn.*'kd_dense\[digits\]'"):
        build(tmp_path / 'digits')
    assert not (tmp_path / 'digits').exists()


def test_negative_counts_are_refused(tmp_path):
    with pytest.raises(ValueError, match='must be 0 or more; got -1, 3, 0'):
        build(tmp_path / 'digits', train=-1)


def test_the_tool_takes_settings_and_reports_errors_in_one_line(tmp_path, monkeypatch, capsys):
    def tool(*options: str) -> None:
        command = ['make_digits.py', str(tmp_path / 'digits'), '--train', '2', '--val', '1']
        monkeypatch.setattr(sys, 'argv', [*command, '--size', '64', *options])
        runpy.run_path(str(ROOT / 'tools/make_digits.py'), run_name='__main__')

    tool('--height', '12', '30')
    settings = json.loads((tmp_path / 'digits/digits.json').read_text())['settings']
    assert (settings['size'], settings['height']) == (64, [12, 30])
    with pytest.raises(SystemExit):
        tool('--height', '12', '30', '--clutter', '0.9')
    assert re.search(r'error: .*clutter 0.5, not 0.9', capsys.readouterr().err)
    with pytest.raises(SystemExit):
        tool('--height', '12', '72')
    assert 'error: height must lie' in capsys.readouterr().err


def test_a_class_may_be_left_out_of_training_pieces_included(tmp_path, monkeypatch):
    seen = {'train': set(), 'val': set()}
    draw = export.draw_scene

    def note(rng, handwriting, *arguments):
        # what digits and their pieces are drawn from
        seen['train' if len(handwriting.labels) > 600 else 'val'] |= set(handwriting.labels)
        return draw(rng, handwriting, *arguments)

    monkeypatch.setattr(export, 'draw_scene', note)
    root = make_digits(tmp_path / 'out', train=6, val=6, progress=False, without=['three', 'one'])
    assert seen == dict(train=set(range(10)) - {1, 3}, val=set(range(10)))
    content = json.loads((root / 'annotations/train.json').read_text())
    assert not {each['category_id'] for each in content['annotations']} & {2, 4}
    assert len(content['categories']) == 10
    for split in ('train', 'val'):
        names = (root / f'VOC2007/ImageSets/Segmentation/{split}.txt').read_text().split()
        folder = root / 'VOC2007/SegmentationClass'
        pictures = [np.array(Image.open(folder / f'{name}.png')) for name in names]
        drawn = set(np.unique(pictures)) - {0, 255}
        assert drawn & {2, 4} == set() if split == 'train' else drawn  # 0 is the background
    assert json.loads((root / 'digits.json').read_text())['without'] == ['one', 'three']
    with pytest.raises(FileExistsError, match=r"without \['one', 'three'\], not None"):
        make_digits(tmp_path / 'out', train=6, val=6, progress=False)
    assert make_digits(root, train=6, val=6, progress=False, without=['one', 'three']) == root


@pytest.mark.parametrize(
    ('names', 'words'), [(['drei'], "no class 'drei'"), (CLASSES, 'nothing to draw')]
)
def test_classes_that_cannot_be_left_out(names, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        make_digits(tmp_path / 'out', without=names)


def test_labels_of_two_classes_are_exchanged_in_training_alone(tmp_path):
    names = dict(confuse=['eight', 'three'], progress=False, train=30, val=4)
    plain = make_digits(tmp_path / 'plain', train=30, val=4, progress=False)
    some = make_digits(tmp_path / 'some', **names, confused=0.5)
    every = make_digits(tmp_path / 'every', **names, confused=1)

    def labels(root, split):
        content = json.loads((root / f'annotations/{split}.json').read_text())
        return np.array([each['category_id'] - 1 for each in content['annotations']])

    honest, three, eight = labels(plain, 'train'), 3, 8
    both = np.isin(honest, (three, eight))
    wrong = np.where(honest == three, eight, three)
    assert (labels(every, 'train') == np.where(both, wrong, honest)).all()
    exchanged = labels(some, 'train') != honest
    assert not exchanged[~both].any() and 0 < exchanged[both].mean() < 1
    assert (labels(some, 'train')[exchanged] == wrong[exchanged]).all()
    for root in (some, every):
        assert (labels(root, 'val') == labels(plain, 'val')).all()
        for image in (plain / 'VOC2007/JPEGImages').iterdir():
            assert (root / 'VOC2007/JPEGImages' / image.name).read_bytes() == image.read_bytes()
    assert json.loads((some / 'digits.json').read_text())['confuse'] == ['eight', 'three']


@pytest.mark.parametrize(('names', 'share'), [(['one', 'one'], 0.3), (['one', 'two'], 1.5)])
def test_labels_that_cannot_be_exchanged(names, share, tmp_path):
    with pytest.raises(ValueError, match='two classes are exchanged, in a share of 0 to 1'):
        make_digits(tmp_path / 'out', confuse=names, confused=share)
