"""What running the models shows: predictions on the same images, what changed, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import SetupError
from ..export import Plain
from ..pictures import Classes, Result, Sample
from . import outcomes
from .numbers import first
from .running import read_model, read_samples, see, without_weights
from .runs import ALONE, DISTILLED, Run
from .speed import Cost, count, measure

# errors of a user's files: the page says them, and goes on without
_MISSING = (SetupError, FileNotFoundError, NotADirectoryError)


@dataclass
class Evidence:
    """What running the models showed; whatever could not be had is empty.

    Attributes:
        segments: whether the models segment; else they detect.
        threshold: of scores, for objects found.
        samples: the images.
        total: how many there are in the data set.
        classes: of the data set.
        results: of each run, by name, one for each image.
        costs: of each run, by name.
        missing: what could not be had, in sentences.
    """

    segments: bool
    threshold: float
    samples: list[Sample] = field(default_factory=list)
    total: int = 0
    classes: Classes = field(default_factory=Classes)
    results: dict[str, list[Result]] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def truths(self) -> list[Result]:
        """What was annotated."""
        return [sample.truth for sample in self.samples]

    def per_class(self, run: Run) -> list[float | None]:
        """AP or intersection over union of each class on these images, in points."""
        score = outcomes.class_overlaps if self.segments else outcomes.average_precisions
        return score(self.truths, self.results[run.name], len(self.classes.names))

    def change(self, alone: Run, distilled: Run) -> outcomes.Change:
        """What distillation changed."""
        pair = self.results[alone.name], self.results[distilled.name]
        if self.segments:
            return outcomes.change_of_pixels(self.truths, *pair)
        return outcomes.change_of_objects(self.truths, *pair, self.threshold)


def gather(runs: Sequence[Run], images: int, threshold: float) -> Evidence:
    """Run all models on the same validation images, and print what takes its time.

    Args:
        runs: the trainings.
        images: how many at most; 0 runs nothing, and only counts parameters.
        threshold: of scores, for objects found.
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
            found = read_samples(owner, models[owner.name], images)
            evidence.samples, evidence.total, evidence.classes = found
        except _MISSING as error:
            evidence.missing.append(f'No image was read: {error}')
    example = evidence.samples[0] if evidence.samples else None
    for name, plain in (models | empty).items():
        evidence.costs[name] = count(plain, example)
    if example is None:
        return evidence
    for name, plain in models.items():
        print(f'{name}: predicting on {len(evidence.samples)} images', flush=True)
        evidence.results[name] = [see(plain, sample) for sample in evidence.samples]
    print('timing', flush=True)
    measure(evidence.costs, models, example)
    return evidence


def most(change: outcomes.Change, number: int) -> tuple[list[int], list[int]]:
    """The images with the largest gain, and those with the largest loss, net, the largest first."""
    net = [gained - lost for gained, lost in change.images]
    order = sorted(range(len(net)), key=lambda i: -net[i])
    gained = [i for i in order[:number] if net[i] > 0]
    return gained, [i for i in order[::-1][:number] if net[i] < 0]
