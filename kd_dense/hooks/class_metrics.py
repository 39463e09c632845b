"""Each class by itself in every validation and test: IoU, or right classes at annotated boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..class_scores import BOX_ACC, by_class, confusion, metric_of, overall, scored
from ..distiller import Distiller
from ..registry import HOOKS


@HOOKS.register_module()
class ClassMetricsHook(Hook):
    """Add metrics of each class to those of the evaluator, in percent.

    ``IoU/NAME`` of a segmentor. Of a one-stage detector ``box_acc/NAME``: the share of the
    annotated boxes of a class at which it is scored highest by the prediction that overlaps the box
    most, before any threshold or NMS; and ``box_acc/all``, of all boxes. Classes that do not occur
    are left out.

    Of a detector each image is computed once more, so an evaluation takes up to twice as long.

    Raises:
        SetupError: while evaluating a model of another kind, or data without annotations.
    """

    priority = 'HIGHEST'  # before mmengine notes the metrics

    def __init__(self) -> None:
        self._counts: list[Tensor] = []

    def _add(
        self, runner: Runner, data: dict[str, Any], outputs: Sequence[BaseDataElement]
    ) -> None:
        model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
        student = model.student if isinstance(model, Distiller) else model
        self._metric = metric_of(student)
        self._counts += [confusion(each) for each in scored(student, data, outputs)]

    def _tell(self, loader: Any, metrics: dict[str, float] | None) -> None:
        found = collect_results(self._counts, len(loader.dataset), 'cpu')
        self._counts = []
        if metrics is None or not is_main_process():
            return
        counts = sum(found)
        values = by_class(counts, self._metric)
        names = loader.dataset.metainfo['classes']
        for name, value in zip(names, values.tolist(), strict=True):
            if value == value:
                metrics[f'{self._metric}/{name}'] = round(value, 2)
        if self._metric == BOX_ACC:
            metrics[f'{BOX_ACC}/all'] = round(float(overall(counts, self._metric)), 2)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count one batch."""
        self._add(runner, data_batch, outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the metrics."""
        self._tell(runner.val_dataloader, metrics)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count one batch."""
        self._add(runner, data_batch, outputs)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Add the metrics."""
        self._tell(runner.test_dataloader, metrics)
