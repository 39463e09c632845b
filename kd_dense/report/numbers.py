"""The metrics of runs as a table: points, gains, and the share of the gap that was closed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from .runs import ALONE, DISTILLED, TEACHER, Run

SMALL, LARGE = '32\N{MULTIPLICATION SIGN}32', '96\N{MULTIPLICATION SIGN}96'  # of COCO's objects
Cell = tuple[float | None, float | None]  # a value, and its gain


class Metric(NamedTuple):
    """A metric as it is logged.

    Attributes:
        key: in the log.
        title: on the page.
        meaning: in words.
        scale: what brings it to points.
    """

    key: str
    title: str
    meaning: str
    scale: float = 100


METRICS = (
    Metric('coco/bbox_mAP', 'AP', 'COCO box AP, the mean over IoU 0.5 to 0.95'),
    Metric('coco/bbox_mAP_50', 'AP50', 'AP at IoU 0.5'),
    Metric('coco/bbox_mAP_75', 'AP75', 'AP at IoU 0.75'),
    Metric('coco/bbox_mAP_s', 'small', f'AP of objects below {SMALL} pixels'),
    Metric('coco/bbox_mAP_m', 'medium', f'AP of objects between {SMALL} and {LARGE} pixels'),
    Metric('coco/bbox_mAP_l', 'large', f'AP of objects above {LARGE} pixels'),
    Metric('coco/segm_mAP', 'mask AP', 'COCO AP of masks, the mean over IoU 0.5 to 0.95'),
    Metric('coco/segm_mAP_50', 'mask AP50', 'AP of masks at IoU 0.5'),
    Metric('coco/segm_mAP_75', 'mask AP75', 'AP of masks at IoU 0.75'),
    Metric('pascal_voc/mAP', 'mAP', 'VOC mean AP'),
    Metric('pascal_voc/AP50', 'AP50', 'VOC AP at IoU 0.5'),
    Metric('mIoU', 'mIoU', 'mean intersection over union of the classes', scale=1),
    Metric('mAcc', 'mAcc', 'mean share of right pixels of the classes', scale=1),
    Metric('aAcc', 'aAcc', 'share of right pixels', scale=1),
)


class Comparison(NamedTuple):
    """A distilled run against the students alone and the teacher, in the main metric.

    Attributes:
        run: the distilled one.
        before, after: points of the students alone, their mean, and of the distilled one.
        top: of the teacher, of several the best; None without one.
    """

    run: Run
    before: float
    after: float
    top: float | None

    @property
    def gain(self) -> float:
        """By distillation."""
        return self.after - self.before

    @property
    def closed(self) -> float | None:
        """The share of the gap to the teacher; None where there is no gap."""
        gap = None if self.top is None else self.top - self.before
        return self.gain / gap if gap is not None and gap > 0 else None


def grouped(number: int) -> str:
    """A whole number with its thousands apart."""
    return f'{number:,}'.replace(',', '\N{NARROW NO-BREAK SPACE}')


def known_metrics(runs: Sequence[Run]) -> list[Metric]:
    """The metrics that any of the runs logged, the main one first."""
    return [metric for metric in METRICS if any(metric.key in run.metrics for run in runs)]


def points(run: Run, metric: Metric) -> float | None:
    """A metric of the last validation; None where it was not measured."""
    value = run.metrics.get(metric.key)
    # COCO's way to say that there are no such objects
    return None if value is None or value < 0 else value * metric.scale


def first(runs: Sequence[Run], role: str) -> Run | None:
    """The first run of a role."""
    return next((run for run in runs if run.role == role), None)


def best_teacher(runs: Sequence[Run], metric: Metric) -> Run | None:
    """The teacher with most points; the first where none has any."""
    teachers = [run for run in runs if run.role == TEACHER]
    measured = [run for run in teachers if points(run, metric) is not None]
    return max(measured, key=lambda run: points(run, metric), default=first(teachers, TEACHER))


def mean_alone(runs: Sequence[Run], metric: Metric) -> float | None:
    """Of the students alone; None without one."""
    values = [points(run, metric) for run in runs if run.role == ALONE]
    values = [value for value in values if value is not None]
    return fmean(values) if values else None


def compare(runs: Sequence[Run], metric: Metric) -> list[Comparison]:
    """Every distilled run against the mean of the students alone."""
    base, teacher = mean_alone(runs, metric), best_teacher(runs, metric)
    top = points(teacher, metric) if teacher else None
    values = {run.name: points(run, metric) for run in runs}
    return [
        Comparison(run, base, values[run.name], top)
        for run in runs
        if run.role == DISTILLED and base is not None and values[run.name] is not None
    ]


def with_gain(run: Run, value: float | None, base: float | None) -> Cell:
    """A value of a run, and if that is a distilled one its gain; None where either is unknown."""
    compared = run.role == DISTILLED and None not in (value, base)
    return value, value - base if compared else None


def table(runs: Sequence[Run], metrics: Sequence[Metric]) -> list[tuple[Run, list[Cell]]]:
    """Each run with the values of its metrics, and its gains over the students alone."""
    bases = [mean_alone(runs, metric) for metric in metrics]
    return [
        (run, [with_gain(run, points(run, m), b) for m, b in zip(metrics, bases, strict=True)])
        for run in runs
    ]


def alone_in_words(runs: Sequence[Run]) -> str:
    """What gains are over; empty without a student alone."""
    names = [run.name for run in runs if run.role == ALONE]
    return names[0] if len(names) == 1 else f'the mean of {", ".join(names)}' if names else ''
