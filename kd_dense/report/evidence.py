"""What running the models shows: predictions on the same images, what changed, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import SetupError
from ..export import Plain
from ..pictures.panel import Classes
from . import outcomes
from .numbers import first
from .predict import IGNORED, Pictures, Result, predict, read_model, read_pictures, without_weights
from .runs import ALONE, DISTILLED, Run
from .speed import Cost, count, measured

# errors of a user's files: the page says them, and goes on without
_MISSING = (SetupError, FileNotFoundError, NotADirectoryError)


@dataclass
class Evidence:
    """What running the models showed; whatever could not be had is empty.

    Attributes:
        segments: whether the models segment; else they detect.
        threshold: of scores, for objects found.
        pictures: the images.
        results: of each run, by name, one for each image.
        costs: of each run, by name.
        missing: what could not be had, in sentences.
    """

    segments: bool
    threshold: float
    pictures: Pictures | None = None
    results: dict[str, list[Result]] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def classes(self) -> Classes:
        """Names and colours."""
        palette = self.pictures.palette if self.segments else []
        return Classes(self.pictures.classes, [tuple(c / 255 for c in each) for each in palette])

    @property
    def truths(self) -> list[Result]:
        """What was annotated."""
        return [picture.truth for picture in self.pictures.chosen] if self.pictures else []

    def per_class(self, run: Run) -> list[float | None]:
        """AP or intersection over union of each class on these images, in points."""
        number = len(self.pictures.classes)
        measure = outcomes.class_overlaps if self.segments else outcomes.average_precisions
        return measure(self.truths, self.results[run.name], number)

    def change(self, alone: Run, distilled: Run) -> outcomes.Change:
        """What distillation changed."""
        pair = self.results[alone.name], self.results[distilled.name]
        if self.segments:
            return outcomes.change_of_pixels(self.truths, *pair, IGNORED)
        return outcomes.change_of_objects(self.truths, *pair, self.threshold)


def gather(
    runs: Sequence[Run],
    images: int,
    threshold: float,
    say: Callable[[str], None] = lambda text: None,
) -> Evidence:
    """Run all models on the same validation images.

    Args:
        runs: the trainings.
        images: how many at most; 0 runs nothing, and only counts parameters.
        threshold: of scores, for objects found.
        say: told what goes on.
    """
    evidence = Evidence(runs[0].segments, threshold)
    models: dict[str, Plain] = {}
    empty: dict[str, Plain] = {}
    for run in runs:
        try:
            models[run.name] = read_model(run)
        except _MISSING as error:
            evidence.missing.append(f'{run.name} was not run: {error}')
            empty[run.name] = without_weights(run)
    if images and models:
        owner = first(runs, DISTILLED) or first(runs, ALONE) or runs[0]
        owner = owner if owner.name in models else next(r for r in runs if r.name in models)
        try:
            evidence.pictures = read_pictures(owner, models[owner.name], images)
        except _MISSING as error:
            evidence.missing.append(f'No image was read: {error}')
    info = evidence.pictures.chosen[0].info if evidence.pictures else None
    for name, plain in (models | empty).items():
        evidence.costs[name] = count(plain, info)
    if not evidence.pictures:
        return evidence
    for name, plain in models.items():
        say(f'{name}: predicting on {len(evidence.pictures.chosen)} images')
        evidence.results[name] = predict(plain, evidence.pictures.chosen)
    say('timing')
    measured(evidence.costs, models, info)
    return evidence


def evenly(total: int, number: int) -> list[int]:
    """Places spread evenly over ``total``."""
    return np.unique(np.linspace(0, total - 1, number).round().astype(int)).tolist()


def most(change: outcomes.Change, number: int) -> tuple[list[int], list[int]]:
    """The images with the largest gain, and those with the largest loss, net, the largest first."""
    net = [gained - lost for gained, lost in change.images]
    order = sorted(range(len(net)), key=lambda i: -net[i])
    gained = [i for i in order[:number] if net[i] > 0]
    return gained, [i for i in order[::-1][:number] if net[i] < 0]
