"""Who sees what of whom in one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .hosts.checkpoints import STUDENT
from .losses.base import DistillationLoss
from .teachers import LiveTeacher, Teacher
from .views import Batch, View


class Sights:
    """The views of one step: each model runs once, however many look at it.

    Args:
        live: the models that train, by name; each knows its own pass once its own loss has run.
        teachers: the others, by name.
        losses: distillation losses; only those that count now are asked what they read.
    """

    def __init__(
        self,
        live: Mapping[str, LiveTeacher],
        teachers: Mapping[str, Teacher],
        losses: Iterable[DistillationLoss],
    ) -> None:
        self.live = live
        self.teachers = teachers
        self.losses = [loss for loss in losses if loss.active]
        self._seen: dict[tuple[str, str], View] = {}  # of whom, by whom

    def look(self, batch: Batch, student: View, of_this_step: bool = False) -> None:
        """Run the teachers that a loss looks at, as deep as needs no student to have run.

        Args:
            batch: the student's.
            student: the student's view.
            of_this_step: whether to look at those that show what own losses have computed.
        """
        for name, teacher in self.teachers.items():
            looking = [loss for loss in self.losses if loss.teacher_name == name]
            # a mean of what trains has a loss of its own, whatever the others count
            if (looking or of_this_step) and teacher.of_this_step == of_this_step:
                view = self._seen[name, STUDENT] = teacher.view(batch, student)
                view.label = name
                view.precompute({read for loss in looking for read in loss.read_names()})

    @property
    def recorded(self) -> bool:
        """Whether anybody looks at what own losses compute."""
        return bool(self.losses) or any(each.of_this_step for each in self.teachers.values())

    @property
    def computed(self) -> bool:
        """Whether a teacher that was looked at has run."""
        return any(not teacher.of_training_set for teacher, _ in self.of_teachers())

    def of_teachers(self) -> Iterator[tuple[Teacher, View]]:
        """The teachers that were looked at, with what they show the student."""
        for name, teacher in self.teachers.items():
            if (name, STUDENT) in self._seen:
                yield teacher, self._seen[name, STUDENT]

    def of(self, loss: DistillationLoss) -> tuple[View, View]:
        """The views of who learns by a loss, and of who is looked at.

        Args:
            loss: a distillation loss; the own losses of both have run.
        """
        learner, shown = loss.student_name, loss.teacher_name
        own = self.live[learner].own_pass
        if (shown, learner) not in self._seen:
            if shown in self.live:
                view = self.live[shown].view(own.batch, own)
            else:  # the same pass, whose proposals are another student's
                view = self._seen[shown, STUDENT].for_student(own)
            self._seen[shown, learner] = view
        return own, self._seen[shown, learner]
