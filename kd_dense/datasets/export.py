"""Build the dataset: scenes as COCO annotations, Pascal VOC annotations and semantic labels.

Each scene draws from its own generator: it depends on nothing but seed, split and index.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from tqdm import tqdm

from .digits import CLASSES, SPLITS, SceneSettings, load_handwriting
from .scenes import Scene, draw_scene

MARKER = 'digits.json'
NAME = 'kd_dense digits'
VERSION = 1

# Label images carry class indices; the colours only help to look at them.
PALETTE = [
    *(0, 0, 0, 230, 25, 75, 60, 180, 75, 255, 225, 25, 0, 130, 200, 245, 130, 48),
    *(145, 30, 180, 70, 240, 240, 240, 50, 230, 210, 245, 60, 250, 190, 212),
]


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """Return the boxes (N, 4) around (N, H, W) masks, xywh in pixels; no mask may be empty."""
    boxes = np.zeros((len(masks), 4), np.int64)
    for box, mask in zip(boxes, masks, strict=True):
        x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box[:] = x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1
    return boxes


class SplitWriter:
    """Write the scenes of one split, one after the other.

    Args:
        root: Folder of the dataset.
        split: Its name: `train` or `val`.
        info: Goes into the COCO file as `info`.
    """

    def __init__(self, root: Path, split: str, info: dict) -> None:
        self.root, self.split = root, split
        self.voc = root / 'VOC2007'
        self.coco: dict = {
            'info': info,
            'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)],
            'images': [],
            'annotations': [],
        }
        for folder in ('JPEGImages', 'Annotations', 'SegmentationClass'):
            (self.voc / folder).mkdir(parents=True, exist_ok=True)

    def add(self, scene: Scene) -> None:
        """Write one scene's image, label image and VOC file; keep its COCO entries."""
        image_id = len(self.coco['images']) + 1
        name = f'{self.split}_{image_id - 1:06d}'
        boxes = boxes_of(scene.masks)
        Image.fromarray(scene.image).save(self.voc / f'JPEGImages/{name}.jpg', quality=95)
        self._label(scene).save(self.voc / f'SegmentationClass/{name}.png')
        self._xml(scene, boxes, name).write(self.voc / f'Annotations/{name}.xml')
        height, width = scene.image.shape[:2]
        self.coco['images'].append(
            {'id': image_id, 'file_name': f'{name}.jpg', 'width': width, 'height': height}
        )
        for mask, box, label in zip(scene.masks, boxes, scene.labels, strict=True):
            code = rle.encode(np.asfortranarray(mask, np.uint8))
            self.coco['annotations'].append({
                'id': len(self.coco['annotations']) + 1,
                'image_id': image_id,
                'category_id': int(label) + 1,
                'bbox': box.tolist(),
                'area': int(mask.sum()),
                'iscrowd': 0,
                'segmentation': {'size': list(code['size']), 'counts': code['counts'].decode()},
            })  # fmt: skip

    def close(self) -> int:
        """Write the COCO file and the lists of images; return the number of objects."""
        names = ''.join(f'{Path(image["file_name"]).stem}\n' for image in self.coco['images'])
        for kind in ('Main', 'Segmentation'):
            path = self.voc / f'ImageSets/{kind}/{self.split}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(names)
        path = self.root / f'annotations/{self.split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.coco))
        return len(self.coco['annotations'])

    @staticmethod
    def _label(scene: Scene) -> Image.Image:
        """Return the semantic label image: 0 is background, class index + 1 elsewhere."""
        label = np.zeros(scene.image.shape[:2], np.uint8)
        for mask, index in zip(scene.masks, scene.labels, strict=True):
            label[mask] = index + 1
        image = Image.fromarray(label)
        image.putpalette(PALETTE)
        return image

    @staticmethod
    def _xml(scene: Scene, boxes: np.ndarray, name: str) -> ElementTree.ElementTree:
        """Return the VOC annotation; its corners count from 1 and belong to the box."""
        height, width, depth = scene.image.shape
        root = ElementTree.Element('annotation')
        _fill(root, {'folder': 'VOC2007', 'filename': f'{name}.jpg'})
        _fill(root, {'size': {'width': width, 'height': height, 'depth': depth}})
        _fill(root, {'segmented': 1})
        for (x, y, w, h), label, cut in zip(boxes, scene.labels, scene.truncated, strict=True):
            corners = {'xmin': x + 1, 'ymin': y + 1, 'xmax': x + w, 'ymax': y + h}
            entry = {'name': CLASSES[label], 'pose': 'Unspecified', 'truncated': int(cut)}
            _fill(root, {'object': {**entry, 'difficult': 0, 'bndbox': corners}})
        ElementTree.indent(root)
        return ElementTree.ElementTree(root)


def _fill(parent: ElementTree.Element, entries: dict) -> None:
    """Add nested entries to an XML element."""
    for key, value in entries.items():
        child = ElementTree.SubElement(parent, key)
        if isinstance(value, dict):
            _fill(child, value)
        else:
            child.text = str(value)


def make_digits(
    out: str | Path,
    settings: SceneSettings | None = None,
    train: int = 2000,
    val: int = 400,
    seed: int = 0,
    progress: bool = True,
    force: bool = False,
    without: Sequence[str] = (),
    confuse: Sequence[str] = (),
    confused: float = 0.3,
) -> Path:
    """Build the dataset in a folder, or do nothing where the same one is already there.

    COCO annotations lie in `annotations/{train,val}.json`; images, VOC annotations and semantic
    label images in `VOC2007`; `digits.json` holds what it was built with. It is built beside
    `out` and renamed when complete, so that `out` never holds half a dataset.

    Args:
        out: Folder to build in.
        settings: How hard the scenes are.
        train: Number of training scenes.
        val: Number of validation scenes.
        seed: Same seed and settings, same bytes.
        progress: Show a progress bar.
        force: Replace a dataset of digits that has other settings.
        without: Classes whose handwriting is in no training scene, in pieces neither.
        confuse: Two classes whose labels are exchanged in training scenes; the images stay.
        confused: Share of their objects that it happens to, each by chance.

    Returns:
        The folder.

    Raises:
        FileExistsError: `out` holds something else, or digits with other settings.
        ValueError: A number of scenes, or the seed, is negative; there is no such class, or none
            is left; or not two classes are to be exchanged, or in no share of 0 to 1.
    """
    if unknown := [name for name in (*without, *confuse) if name not in CLASSES]:
        raise ValueError(f'there is no class {unknown[0]!r}; classes are {", ".join(CLASSES)}')
    if set(without) >= set(CLASSES) - {'one'}:  # of which no pieces are cut
        raise ValueError('without all classes there is nothing to draw')
    if confuse and (len(set(confuse)) != 2 or not 0 <= confused <= 1):
        raise ValueError(
            'two classes are exchanged, in a share of 0 to 1; got '
            f'{", ".join(confuse)} and {confused}'
        )
    if min(train, val, seed) < 0:
        raise ValueError(f'train, val and seed must be 0 or more; got {train}, {val}, {seed}')
    settings = settings or SceneSettings()
    out = Path(out).resolve()
    images = {'train': train, 'val': val}
    recipe = {'dataset': NAME, 'version': VERSION, 'seed': seed, 'images': images}
    if without:
        recipe['without'] = sorted(without)
    if confuse:
        recipe |= {'confuse': sorted(confuse), 'confused': confused}
    recipe = json.loads(json.dumps({**recipe, 'settings': asdict(settings)}))
    if _already_there(out, recipe, force):
        if progress:
            print(f'{out}: the digits are already there')
        return out

    partial = out.with_name(f'.{out.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    objects = _write(partial, recipe, settings, progress)
    marker = {**recipe, 'objects': objects}
    (partial / MARKER).write_text(json.dumps(marker, indent=2) + '\n')
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    return out


def _already_there(out: Path, recipe: dict, force: bool) -> bool:
    """Say whether `out` holds this dataset; refuse where building would destroy another."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    marker = out / MARKER
    found = json.loads(marker.read_text()) if marker.is_file() else {}
    if found.get('dataset') != NAME:
        raise FileExistsError(
            f'{out} exists and is not a dataset of digits (no {MARKER} of ours in it): '
            f'choose a folder that is new or empty'
        )
    other = _differences(found, recipe)
    if other and not force:
        raise FileExistsError(
            f'{out} holds digits that were built with other settings ({", ".join(other)}): '
            f'rebuild them with --force (force=True), or choose another folder'
        )
    return not other


def _differences(found: dict, wanted: dict) -> list[str]:
    """Name the settings in which two recipes differ, with both values."""
    flat = [
        {**recipe, **recipe.get('images', {}), **recipe.get('settings', {})}
        for recipe in (found, wanted)
    ]
    nested = ('images', 'settings', 'objects')
    names = [name for name in {**flat[0], **flat[1]} if name not in nested]
    values = [(name, flat[0].get(name), flat[1].get(name)) for name in names]
    return [f'{name} {old}, not {new}' for name, old, new in values if old != new]


def _write(root: Path, recipe: dict, settings: SceneSettings, progress: bool) -> dict[str, int]:
    """Draw and write all scenes; return the number of objects in each split."""
    seed, objects = recipe['seed'], {}
    handwriting = load_handwriting(seed, settings.val_handwriting)
    left_out = [CLASSES.index(name) for name in recipe.get('without', ())]
    handwriting['train'] = handwriting['train'].without(left_out)
    total = sum(recipe['images'].values())
    with tqdm(total=total, desc='digits', unit='scene', disable=not progress) as bar:
        for number, split in enumerate(SPLITS):
            writer = SplitWriter(root, split, {'description': NAME, **recipe})
            for index in range(recipe['images'][split]):
                rng = np.random.default_rng([seed, number, index])
                empty = split == 'train' and rng.random() < settings.empty
                scene = draw_scene(rng, handwriting[split], settings, empty)
                if split == 'train' and 'confuse' in recipe:
                    # drawn from a generator of its own: the images are those of the honest set
                    labels = np.random.default_rng([seed, len(SPLITS), index])
                    scene = _exchanged(scene, labels, recipe['confuse'], recipe['confused'])
                writer.add(scene)
                bar.update()
            objects[split] = writer.close()
    return objects


def _exchanged(scene: Scene, rng: np.random.Generator, names: Sequence[str], share: float) -> Scene:
    """The scene with the labels of two classes exchanged, each with a probability."""
    first, second = (CLASSES.index(name) for name in names)
    chosen = rng.random(len(scene.labels)) < share
    labels = scene.labels.copy()
    labels[chosen & (scene.labels == first)] = second
    labels[chosen & (scene.labels == second)] = first
    return replace(scene, labels=labels)
