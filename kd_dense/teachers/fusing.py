"""Detectors of any kind as one that predicts: their finished boxes are fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.utils import weighted_boxes_fusion
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import Batch, DenseView, view_class
from .frozen import FrozenTeacher
from .predicting import EnsembleModel

# others give scores above 1 where one detector has several boxes of an object
SCORES = 'absent_model_aware_avg'


@MODELS.register_module()
class WeightedBoxesFusion(EnsembleModel):
    """Several detectors that predict as one, for evaluation, whatever their heads are.

    Each predicts by itself; boxes of a class that overlap are averaged, weighted by their scores,
    and a score counts less where some detectors see nothing. The fusion is mmdet's.

    Source: Solovyev et al., "Weighted boxes fusion", arXiv 1910.13302.

    Args:
        members: ``a=dict(config=..., checkpoint=...)``, as of :class:`EnsembleModel`.
        iou_threshold: overlap from which on boxes are fused; 0.55 in the source.
        data_preprocessor: not used: images come as the first member wants them.

    Raises:
        FileNotFoundError: a config or checkpoint is not there.
        SetupError: no members, one that is no detector of boxes, or other classes.
    """

    def __init__(
        self,
        members: Mapping[str, Mapping[str, Any]],
        iou_threshold: float = 0.55,
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(members, Mapping) or not members:
            raise SetupError(
                'A WeightedBoxesFusion has `members=dict(a=dict(config=..., checkpoint=...), '
                f'b=...)`; found {members!r}.'
            )
        options: dict[str, Any] = dict(fast=False)
        teachers = {name: FrozenTeacher(**(options | dict(each))) for name, each in members.items()}
        first = next(iter(teachers.values()))
        known = {}
        for name, teacher in teachers.items():
            teacher.name = name
            teacher.load(first.model)
            if teacher.classes is not None:
                known[name] = teacher.classes
        if len(set(known.values())) > 1:
            told = '; '.join(f'{name}: {", ".join(each)}' for name, each in known.items())
            raise SetupError(f'The members know other classes, or in another order ({told}).')
        self._fuse({name: each.predictor() for name, each in teachers.items()}, iou_threshold)
        self.classes = next(iter(known.values()), None)

    @classmethod
    def of(
        cls, models: Mapping[str, nn.Module], iou_threshold: float = 0.55
    ) -> WeightedBoxesFusion:
        """A fusion of models that are there already.

        Args:
            models: by name.
            iou_threshold: see the class.

        Raises:
            SetupError: one is no detector of boxes, or knows other classes.
        """
        fusion = cls.__new__(cls)
        fusion._fuse(models, iou_threshold)
        fusion.classes = None
        return fusion.eval()

    def _fuse(self, models: Mapping[str, nn.Module], iou_threshold: float) -> None:
        if not 0 < iou_threshold <= 1:
            raise SetupError(f'iou_threshold is {iou_threshold!r}; it is above 0, and 1 at most.')
        counts = {}
        for name, model in models.items():
            view = view_class(model)
            masks = getattr(getattr(model, 'roi_head', None), 'with_mask', False)
            if not issubclass(view, DenseView) or masks:
                what = 'predicts masks' if masks else 'is no detector whose boxes are known'
                raise SetupError(
                    f'members.{name} ({type(model).__name__}) {what}: boxes are fused.'
                )
            counts[name] = view.describe(model).num_classes
        if len(set(counts.values())) > 1:
            told = ', '.join(f'{name} {count}' for name, count in counts.items())
            raise SetupError(f'The members know other numbers of classes: {told}.')
        self._hold(models)
        self.iou_threshold = iou_threshold

    def predict(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement],
        rescale: bool = True,
        **_: Any,
    ) -> list[BaseDataElement]:
        """Predict, as the hosts' ``predict`` does.

        Args:
            inputs: normalised for the first member and padded, (N, 3, H, W).
            data_samples: N samples.
            rescale: whether boxes are given in pixels of the original images.
            options: others of the hosts' ``predict``.
        """
        batch = Batch(inputs, data_samples)
        models: list[Any] = list(self.members.values())
        found = [
            model.predict(renormalize(batch), [s.clone() for s in data_samples], rescale=False)
            for model, renormalize in zip(models, self.renormalize, strict=True)
        ]
        most = max(map(_most, models))
        canvas = inputs.new_tensor([inputs.shape[-1], inputs.shape[-2]] * 2)
        for sample, *results in zip(data_samples, *found, strict=True):
            fused = self._fused([each.pred_instances for each in results], canvas, most)
            if rescale:
                fused.bboxes = fused.bboxes / canvas.new_tensor(sample.scale_factor).repeat(2)
            sample.pred_instances = fused
        return list(data_samples)

    def _fused(self, instances: Sequence[InstanceData], canvas: Tensor, most: int) -> InstanceData:
        """The fused boxes of an image, the surest ones, xyxy in pixels of the network input."""
        boxes, scores, labels = weighted_boxes_fusion(
            [(each.bboxes / canvas).cpu().numpy() for each in instances],
            [each.scores.cpu().numpy() for each in instances],
            [each.labels.cpu().numpy() for each in instances],
            iou_thr=self.iou_threshold,
            conf_type=SCORES,
        )
        return InstanceData(
            bboxes=boxes.reshape(-1, 4)[:most].to(canvas) * canvas,
            scores=scores[:most].to(canvas),
            labels=labels[:most].to(canvas.device, torch.long),
        )


def _most(model: Any) -> int:
    """How many boxes of an image a detector gives."""
    config = model.test_cfg.get('rcnn', model.test_cfg)
    return int(config.get('max_per_img', 100))
