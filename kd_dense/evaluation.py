"""What metrics of a validation say of predictions, whoever made them."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

MAIN = ('coco/bbox_mAP', 'pascal_voc/mAP', 'mIoU')
NOTHING = 'no predictions:'

Predicted = tuple[Sequence[BaseDataElement], Mapping[str, Any]]


def evaluate(
    predictions: Iterable[Predicted],
    metrics: Sequence[Mapping[str, Any]],
    dataset_meta: Mapping[str, Any],
) -> tuple[str, float]:
    """The name of the main metric, and its value; files that metrics write are not kept.

    Args:
        predictions: what was predicted of some batches, each with the batch itself.
        metrics: their configs.
        dataset_meta: of the data set.
    """
    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator([_elsewhere(metric, folder) for metric in metrics])
        evaluator.dataset_meta = dict(dataset_meta)
        ids = []
        for samples, data in predictions:
            evaluator.process(data_samples=samples, data_batch=data)
            ids += [sample.metainfo.get('img_id') for sample in samples]
        for metric in evaluator.metrics:
            if hasattr(metric, 'img_ids'):  # or COCO's would miss all images that were left out
                metric.img_ids = ids
        values = evaluator.evaluate(len(ids))
    numbers = {k: float(v) for k, v in values.items() if isinstance(v, Real)}
    # a metric that was shown no prediction at all may return nothing
    best = next((k for k in (*MAIN, *numbers) if k in numbers), NOTHING)
    return best, numbers.get(best, 0.0)


def largest(metric: str) -> int:
    """The largest value of a main metric: mIoU is in percent, AP a share."""
    return 100 if 'IoU' in metric else 1


def _elsewhere(metric: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A metric that writes its files, if any, into another folder."""
    found = copy.deepcopy(dict(metric))
    for key in ('outfile_prefix', 'output_dir', 'out_file_path'):
        if found.get(key) is not None:
            found[key] = str(Path(folder, Path(found[key]).name))
    return found
