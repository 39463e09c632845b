"""An ensemble as a model that predicts: outputs are averaged, and decoded once by the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..errors import SetupError
from ..hosts.heads import is_cascade, stages_of
from ..registry import MODELS
from ..views import (
    Batch,
    MaskTransformerView,
    SegmentationView,
    TwoStageView,
    host_info,
    view_class,
)
from ..views.watch import replaced
from .averaging import average, average_sigmoid, average_softmax
from .ensemble import FUSION as WAY_OUT
from .ensemble import (
    Ensemble,
    average_boxes,
    average_classes,
    average_proposals,
    check_geometry,
)
from .larger import LargerModel
from .renormalize import Renormalize

TYPE = 'kd_dense.Ensemble'
FUSION = 'kd_dense.WeightedBoxesFusion'  # of finished boxes


@MODELS.register_module(name='Ensemble')
class EnsembleModel(BaseModel):
    """Several models that predict as one, for evaluation.

    Dense outputs, and in two-stage detectors the scores, deltas and masks of one list of
    proposals, are averaged as :class:`~kd_dense.teachers.Ensemble` does; the first member's host
    decodes them, with one suppression. Segmentors are averaged as probabilities at the size of the
    original image.

    Args:
        members: ``a=dict(config=..., checkpoint=...)``, as of that teacher.
        data_preprocessor: not used: images come as the first member wants them.

    Raises:
        FileNotFoundError: a config or checkpoint is not there.
        SetupError: a checkpoint does not fit, or members do not agree.
    """

    def __init__(
        self,
        members: Mapping[str, Mapping[str, Any]],
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        ensemble = Ensemble({n: dict(fast=False) | dict(each) for n, each in members.items()})
        ensemble.load(ensemble.model)
        built = {name: each.predictor() for name, each in ensemble.members.items()}
        self._hold(built)
        self.classes = ensemble.classes

    @classmethod
    def of(cls, models: Mapping[str, nn.Module]) -> EnsembleModel:
        """An ensemble of models that are there already.

        Args:
            models: by name.

        Raises:
            SetupError: they do not agree.
        """
        ensemble = cls.__new__(cls)
        ensemble._hold(models)
        check_geometry(models)
        ensemble.classes = None
        return ensemble.eval()

    def _hold(self, models: Mapping[str, nn.Module]) -> None:
        for name, model in models.items():
            if isinstance(model, LargerModel):
                raise SetupError(
                    f'An ensemble predicts of images of one size, and members.{name} has a scale '
                    f'of {model.scale:g}. Leave its `scale` out, or look at that model alone.'
                )
            if _decodes_otherwise(model):
                raise SetupError(
                    f'members.{name} ({type(model).__name__}, {host_info(model).head}) decodes no '
                    'mean of several outputs: it can teach in an Ensemble, and not predict in one. '
                    f'{WAY_OUT}.'
                )
        first = next(iter(models.values()))
        super().__init__(data_preprocessor=first.data_preprocessor)
        self.members = nn.ModuleDict(models)
        shown = [Renormalize(first.data_preprocessor, m.data_preprocessor) for m in models.values()]
        self.renormalize = nn.ModuleList(shown)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[BaseDataElement] | None = None,
        mode: str = 'predict',
    ) -> list[BaseDataElement]:
        """Predict.

        Args:
            inputs: normalised for the first member and padded, (N, 3, H, W).
            data_samples: N samples.
            mode: ``'predict'``.

        Raises:
            SetupError: another mode.
        """
        if mode != 'predict':
            raise SetupError(
                f'An ensemble only predicts; mode is {mode!r}. To learn from one, name it as the '
                "teacher: `teacher=dict(type='kd_dense.Ensemble', members=...)`."
            )
        return self.predict(inputs, data_samples or [])

    def predict(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement], **options: Any
    ) -> list[BaseDataElement]:
        """Predict, as the hosts' ``predict`` does.

        Args:
            inputs, data_samples: see :meth:`forward`.
            options: of the hosts' ``predict``, such as ``rescale``.
        """
        batch = Batch(inputs, data_samples)
        images = [renormalize(batch) for renormalize in self.renormalize]
        models: list[Any] = list(self.members.values())
        if issubclass(view_class(models[0]), SegmentationView):
            return _segment(models, images, data_samples)
        with _averaged_outputs(models, images):
            return models[0].predict(images[0], data_samples, **options)


def _decodes_otherwise(model: Any) -> bool:
    """Whether a model predicts in several stages, or scores where others have logits."""
    cascade = hasattr(model, 'roi_head') and is_cascade(model.roi_head)
    return cascade or issubclass(view_class(model), MaskTransformerView)


def is_ensemble(model: Mapping[str, Any]) -> bool:
    """Whether a config's model is an ensemble."""
    return model.get('type') in (TYPE, FUSION)


def ensemble_of(model: Mapping[str, Any], checkpoints: Sequence[str]) -> dict[str, Any]:
    """The config of an ensemble of several checkpoints of one model.

    Args:
        model: the config of each member.
        checkpoints: paths or URLs.
    """
    members = {f'member{i}': dict(config=model, checkpoint=c) for i, c in enumerate(checkpoints)}
    return dict(type=TYPE, members=members)


def _segment(
    models: Sequence[Any], images: Sequence[Tensor], samples: Sequence[Any]
) -> list[BaseDataElement]:
    """The mean of what segmentors return, in the first one's samples."""
    found = [
        model.predict(each, [sample.clone() for sample in samples])
        for model, each in zip(models, images, strict=True)
    ]
    for result, *others in zip(*found, strict=True):
        maps = [each.seg_logits.data for each in (result, *others)]
        if maps[0].shape[0] > 1:
            mean = average_softmax(maps, dim=0)
            chosen = mean.argmax(dim=0, keepdim=True)
        else:  # the host has taken the sigmoid already
            mean = average(maps)
            head = stages_of(models[0].decode_head)[-1]
            chosen = (mean > head.threshold).to(mean)
        result.seg_logits.data, result.pred_sem_seg.data = mean, chosen
    return found[0]


@contextmanager
def _averaged_outputs(models: Sequence[Any], images: Sequence[Tensor]) -> Iterator[None]:
    """While inside, the first detector's heads return the mean of all members' outputs."""
    first, *others = models
    features = [m.extract_feat(each) for m, each in zip(others, images[1:], strict=True)]
    view: Any = view_class(first)

    def dense(own: Any, x: Any) -> tuple[list[Tensor], ...]:
        heads = [view.head_of(model) for model in others]
        outputs = [own(x), *(head(f) for head, f in zip(heads, features, strict=True))]
        return average_outputs(outputs, view.head_of(first))

    def proposals(own: Any, x: Any, rois: Tensor) -> dict[str, Any]:
        results = [own(x, rois)]
        for model, f in zip(others, features, strict=True):
            results.append(model.roi_head._bbox_forward(f, rois))
        head = view.box_head_of(first)
        scores = average_proposals([each['cls_score'] for each in results], head)
        deltas = [each['bbox_pred'] for each in results]
        mean = None if deltas[0] is None else average(deltas)
        return dict(results[0], cls_score=scores, bbox_pred=mean)

    def masks(own: Any, x: Any, rois: Tensor) -> dict[str, Any]:
        results = [own(x, rois)]
        for model, f in zip(others, features, strict=True):
            results.append(model.roi_head._mask_forward(f, rois))
        mean = average_sigmoid([each['mask_preds'] for each in results])
        return dict(results[0], mask_preds=mean)

    with ExitStack() as stack:
        stack.enter_context(replaced(view.head_of(first), 'forward', dense))
        if issubclass(view, TwoStageView):
            stack.enter_context(replaced(first.roi_head, '_bbox_forward', proposals))
            if first.roi_head.with_mask:
                stack.enter_context(replaced(first.roi_head, '_mask_forward', masks))
        yield


def average_outputs(
    outputs: Sequence[tuple[list[Tensor], ...]], head: Any
) -> tuple[list[Tensor], ...]:
    """The mean of what dense heads return: classes, boxes, and the factors of some heads' scores.

    Args:
        outputs: of the members; each a list over the levels.
        head: a member's, or one like it.

    Raises:
        SetupError: the heads return something else besides.
    """
    kinds = [average_classes, average_boxes, _factors]
    if not 2 <= len(outputs[0]) <= len(kinds):
        raise SetupError(f'What a {type(head).__name__} returns is not known: it has no mean.')
    averaged = []
    for kind, parts in zip(kinds, zip(*outputs, strict=True), strict=False):
        averaged.append([kind(maps, head) for maps in zip(*parts, strict=True)])
    return tuple(averaged)


def _factors(maps: Sequence[Tensor], head: Any) -> Tensor:
    """The mean of centernesses, (N, A, H, W)."""
    if maps[0].shape[1] != getattr(head, 'num_base_priors', 1):
        raise SetupError(
            f'A {type(head).__name__} returns {maps[0].shape[1]} channels besides classes and '
            'boxes, whose mean is not known.'
        )
    return average_sigmoid(maps)
