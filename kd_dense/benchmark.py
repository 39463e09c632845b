"""What ``kd-dense benchmark`` times, on images of noise and with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from .compose import recipes
from .hosts import build_model, read_model_config
from .measure import MIB, peak_memory, training_step
from .registry import MODELS
from .store import Store
from .store.dataset import FromStore, SeededPipeline
from .store.served import what_to_keep
from .store.write import Writer

BOXES_PER_IMAGE = 7
PROPOSALS_PER_IMAGE = 512
LD_DETECTOR = 'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py'
PLAIN, TEACHER, CRITIC = 'student step, plain', 'teacher forward, plain', 'critic step, plain'
MMDET = "mmdet's LD step"
OURS = ('our step, all, float32', 'our step, all, bfloat16')
AMP = ', amp'  # at the end of the names of steps in mixed precision
IN_HALF = (f'student step{AMP}', f'our step, all, bfloat16{AMP}')
STORED = 'stored'  # at the end of the names of steps whose teacher is


@dataclass(frozen=True)
class Pair:
    """Teacher and student, and what to time of them.

    Attributes:
        teacher, student: their configs; the student's with a ResNet18.
        recipe: whose losses are ours.
        subjects: what to time.
        parts: names of losses of recipes, by the word that stands for them in a subject's name.
    """

    teacher: str
    student: str
    recipe: str
    subjects: tuple[str, ...] = (PLAIN, TEACHER, *OURS, *IN_HALF)
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def floor(self) -> list[str]:
        """What no distillation can do without."""
        return [name for name in self.subjects if name in (PLAIN, TEACHER, CRITIC)]


PAIRS = {
    'gfl': Pair(
        'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
        'ld',
        # mmdet's LD is localization distillation in the main region: the steps with "main" do the
        # same, the others add the valuable localization region and classification
        subjects=(
            PLAIN,
            TEACHER,
            MMDET,
            'our step, main, float32',
            'our step, main, bfloat16',
            *OURS,
            'our step, all, stored',
            *IN_HALF,
            MMDET + AMP,
        ),
        parts=dict(main=('ld.ld',)),
    ),
    'faster_rcnn': Pair(
        'mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        'chen2017',
    ),
    'pspnet': Pair(
        'mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        'structured',
        # what the pair-wise loss compares, 512 channels of each position, is too much to store
        subjects=(
            PLAIN,
            TEACHER,
            CRITIC,
            *OURS,
            'our step, logits, float32',
            'our step, logits, stored',
            *IN_HALF,
        ),
        parts=dict(logits=('structured.pixel', 'cwd.cwd')),
    ),
}


class Subjects:
    """What can be timed of a pair.

    Args:
        pair: its name.
        images: images of a step.
        size: height and width of the images in pixels.
        device: where to run.
        store: folder for the store of a subject whose teacher is stored; it is written there by
            :meth:`write_store`.
        backbone: what differs in the teacher's.
        first: how many of the recipe's losses are ours; all by default.
    """

    def __init__(
        self,
        pair: str,
        images: int,
        size: tuple[int, int],
        device: str,
        store: str | None = None,
        backbone: Mapping[str, Any] | None = None,
        first: int | None = None,
    ) -> None:
        self.pair = PAIRS[pair]
        self.backbone = backbone or {}
        self.first = first
        self.store = store
        self.size = size
        self.device = device
        self.segmentation = self.pair.student.startswith('mmseg::')
        make = noise_labels if self.segmentation else noise_boxes
        self.data = dict(inputs=noise_images(images, size), data_samples=make(images, size))

    def make(self, name: str) -> Callable[[], None]:
        """One of them, ready to be called."""
        torch.manual_seed(0)
        if name == TEACHER:
            model = build_model(self.teacher_config()).to(self.device).eval()
            return partial(teacher_forward, model, self.data)
        bare = name.removesuffix(AMP)
        if bare in (PLAIN, 'student step'):
            model = build_model(self.student_config())
        elif bare == MMDET:
            model = self.mmdet_ld()
        else:
            model = MODELS.build(self.our_config(bare))
        model.to(self.device)
        if hasattr(model, 'load_teacher'):
            model.load_teacher()
        model.train()
        optimizer = self.optimizer(model, in_half=name.endswith(AMP))
        if name == CRITIC:
            return critic_step(model, optimizer, self.data)
        if name.endswith(STORED):
            return partial(stored_step, model, optimizer, self.stored_views())
        return partial(training_step, model, optimizer, self.data)

    def model_config(self, name: str) -> ConfigDict:
        """Model part of a config, without anything to download, for images of this size."""
        config = read_model_config(name, 'student')
        config.backbone.init_cfg = None
        if 'pretrained' in config:
            config.pretrained = None
        if 'size' in config.data_preprocessor:
            config.data_preprocessor.size = self.size
        return config

    def student_config(self) -> ConfigDict:
        """Model part of the student's config, with a ResNet18."""
        config = self.model_config(self.pair.student)
        config.backbone.depth = 18
        if 'neck' in config:
            config.neck.in_channels = [64, 128, 256, 512]
        return config

    def teacher_config(self) -> ConfigDict:
        """Model part of the teacher's config."""
        config = self.model_config(self.pair.teacher)
        config.backbone.update(self.backbone)
        return config

    def teacher_mib(self) -> float:
        """Memory of the teacher's weights in float32, in MiB."""
        values = build_model(self.teacher_config()).state_dict().values()
        return sum(each.numel() * each.element_size() for each in values) / MIB

    def our_config(self, name: str) -> dict:
        """A distiller with all losses of the pair's recipe, or with those that a name stands for.

        Args:
            name: of the subject: ``'our step, LOSSES, TEACHER'``.
        """
        _, which, how = (OURS[0] if name == CRITIC else name).split(', ')
        if which == 'all':
            found = Config.fromfile(recipes()[self.pair.recipe]).losses.to_dict()
            on = {name: loss for name, loss in found.items() if loss.get('weight') != 0}
            losses = dict(list(on.items())[: self.first])
        else:
            names = [each.split('.') for each in self.pair.parts[which]]
            losses = {
                loss: Config.fromfile(recipes()[recipe]).losses[loss].to_dict()
                for recipe, loss in names
            }
        if how == STORED:
            teacher = dict(type='kd_dense.StoredTeacher', path=self.store)
        else:
            teacher = dict(config=self.teacher_config(), dtype=how, untrained=True)
        return dict(
            type='kd_dense.Distiller',
            student=self.student_config(),
            teacher=teacher,
            losses=losses,
        )

    def write_store(self, name: str) -> None:
        """Write a store of the images, with what a subject reads.

        Args:
            name: of a subject whose teacher is stored.
        """
        torch.manual_seed(0)
        live = name.removesuffix(STORED) + 'float32'
        distiller = MODELS.build(self.our_config(live)).to(self.device)
        distiller.load_teacher()
        kept = what_to_keep(distiller.teacher, dict(distiller.losses.items()))
        said: list[str] = []
        writer = Writer(distiller, distiller.teacher, kept, Path(str(self.store)), say=said.append)
        writer.write(writer.prepare(NoiseSet(self.data), {}, views=1, seed=0))

    def stored_views(self) -> Callable[[], dict]:
        """What a data loader's worker does for a step: the images, with what the store holds."""
        dataset, store = NoiseSet(self.data), Store(str(self.store))
        read = FromStore(SeededPipeline.of(dataset, seed=0), store)
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        return lambda: pseudo_collate([read(info) for info in infos])

    def mmdet_ld(self) -> nn.Module:
        """mmdet's own LD detector on the same pair (its teacher builds itself, from a config)."""
        config = self.model_config(LD_DETECTOR)
        config.teacher_config = ConfigDict(model=self.teacher_config())
        config.teacher_config.model.pop('_scope_')
        config.teacher_ckpt = None
        return build_model(config)

    def optimizer(self, model: nn.Module, in_half: bool = False) -> OptimWrapper:
        """SGD for the student, Adam for a discriminator.

        Args:
            model: a detector, a segmentor or a distiller.
            in_half: whether to train in mixed precision, of bfloat16.
        """
        config: dict = dict(optimizer=dict(type='SGD', lr=1e-6, momentum=0.9))
        if in_half:
            config['type'] = 'kd_dense.AutocastOptimWrapper'
        losses = getattr(model, 'losses', {})
        if any(loss.own_module() is not None for loss in losses.values()):
            config = dict(
                constructor='kd_dense.AdversarialOptimWrapperConstructor',
                student=config,
                discriminator=dict(optimizer=dict(type='Adam', lr=1e-6)),
            )
        return build_optim_wrapper(model, config)


class NoiseSet:
    """A data set of the images of a benchmark, whose pipeline has nothing to do.

    Args:
        data: images and samples, as a data loader gives them.
    """

    data_root = ''

    def __init__(self, data: dict) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data['inputs'])

    def get_data_info(self, index: int) -> dict[str, Any]:
        """Name and number of an image."""
        return dict(img_path=f'{index}.png', index=index)

    def pipeline(self, info: dict[str, Any]) -> dict[str, Any]:
        """An image with its sample."""
        index = info['index']
        sample = copy.deepcopy(self.data['data_samples'][index])
        return dict(inputs=self.data['inputs'][index], data_samples=sample)


def stored_step(model: nn.Module, optimizer: OptimWrapper, views: Callable[[], dict]) -> None:
    """A training step whose images are read with what the teacher said of them.

    In a training the workers of the data loader read meanwhile.
    """
    training_step(model, optimizer, views())


def peak_of(name: str, subjects: Subjects) -> float:
    """Peak memory in MiB of three runs of a subject; on a CPU it needs a process of its own."""
    on_gpu = subjects.device.startswith('cuda')
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = subjects.make(name)
    for _ in range(3):
        run()
    return peak_memory(on_gpu)


def noise_images(images: int, size: tuple[int, int]) -> list[Tensor]:
    """Images as a data loader gives them, uint8, (3, height, width)."""
    generator = torch.Generator().manual_seed(0)
    shape = (images, 3, *size)
    return list(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))


def noise_boxes(images: int, size: tuple[int, int], num_classes: int = 80) -> list:
    """Samples with boxes of 16 pixels to half of the image's shorter side."""
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(0)
    samples, half = [], min(size) / 2
    width_height = torch.tensor(size[::-1])
    for _ in range(images):
        low = torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * width_height / 2
        extent = 16 + torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * (half - 16)
        labels = torch.randint(0, num_classes, (BOXES_PER_IMAGE,), generator=generator)
        sample = DetDataSample(
            gt_instances=InstanceData(bboxes=torch.cat([low, low + extent], 1), labels=labels),
            metainfo=dict(img_shape=size, scale_factor=(1.0, 1.0)),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()
        )
        samples.append(sample)
    return samples


def noise_labels(images: int, size: tuple[int, int], num_classes: int = 19) -> list:
    """Samples with a class for each pixel."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        label = torch.randint(0, num_classes, (1, *size), generator=generator)
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return samples


def critic_step(model: nn.Module, optimizer: OptimWrapper, data: dict) -> Callable[[], None]:
    """Forward, backward and update of the discriminator alone, on what one batch shows it."""
    batch = model.data_preprocessor(copy.deepcopy(data), True)
    model(**batch, mode='loss')
    ((name, shown),) = model.shown.items()

    def run() -> None:
        total = model.losses[name].own_losses(shown)['total']
        optimizer['discriminator'].update_params(total)

    return run


def teacher_forward(model: nn.Module, data: dict) -> None:
    """The teacher as its host runs it, no gradients: trunk and heads, on as many proposals."""
    with torch.no_grad():
        batch = model.data_preprocessor(copy.deepcopy(data), True)
        if not hasattr(model, 'roi_head'):
            model(**batch, mode='tensor')
            return
        features = model.extract_feat(batch['inputs'])
        model.rpn_head(features)
        model.roi_head._bbox_forward(features, noise_proposals(batch['inputs']))


def noise_proposals(images: Tensor) -> Tensor:
    """As many proposals as the student samples: (image, x1, y1, x2, y2) in pixels, (R, 5)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.arange(len(images)).repeat_interleave(PROPOSALS_PER_IMAGE)[:, None]
    low, extent = torch.rand(2, len(image), 2, generator=generator) * images.shape[-1] / 2
    return torch.cat([image, low, low + extent.clamp(min=16)], dim=1).to(images)
