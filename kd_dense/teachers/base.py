"""What every teacher offers: whatever a loss looks at is one, a finished model or a live one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..errors import SetupError
from ..hosts import Host
from ..views import Batch, HostInfo, View

if TYPE_CHECKING:
    from ..losses.base import DistillationLoss


class Teacher(ABC):
    """Whatever a loss looks at.

    Losses, checks and hooks ask it for what they need; none reaches into a model of its. The
    distiller calls, in this order: :meth:`connect` when it is built; :meth:`load` before the first
    step; in each step :meth:`view`, as long as a loss reads this teacher, and :meth:`own_losses`;
    behind the optimizer's step :meth:`after_step`.

    A teacher is no ``nn.Module``, so it is in no ``state_dict``, optimizer, DDP bucket or EMA copy,
    and ``train()`` of the student cannot reach it. What it trains or saves it gives as
    :attr:`module`, which all of these hold and reach.

    Attributes:
        name: what the distiller calls it.
        source: where it comes from, for messages: the path of a checkpoint, say.
        classes: names of the classes it knows, in order; None where unknown.
        same_classes: whether teacher and student must know the same classes in the same order.
        untrained: whether it teaches with random weights.
        maps_classes: whether its classes are found among the training set's by name: it may know
            others, or fewer, and only losses that ask which is which may read its classes.
        of_training_set: whether it knows the images of the training set alone.
        of_this_step: whether it shows what the models that train have computed in this step, and so
            is looked at behind their own losses.
    """

    name: str = 'teacher'
    source: str = ''
    classes: tuple[str, ...] | None = None
    same_classes: bool = True
    untrained: bool = False
    maps_classes: bool = False
    of_training_set: bool = False
    of_this_step: bool = False

    def connect(self, student: Host) -> None:  # noqa: B027 - most teachers need no student
        """Build what depends on the student; called when the distiller is built.

        Args:
            student: the student's model, before its weights are initialised or loaded.
        """

    def meet(self, live: Mapping[str, Teacher]) -> None:  # noqa: B027 - most need nobody else
        """Get to know the models that train; called when the distiller is built.

        Args:
            live: the student and its peers by name, as others look at them.

        Raises:
            SetupError: one that it needs is not there.
        """

    def know_classes(self, classes: Sequence[str] | None) -> None:  # noqa: B027 - most are checked
        """Learn what the training set calls its classes; called when it is known.

        Args:
            classes: names in order; None where the training set tells none.

        Raises:
            SetupError: they are needed, and unknown or others.
        """

    @property
    @abstractmethod
    def info(self) -> HostInfo:
        """What has to agree with a student; known before :meth:`load`."""

    @property
    def model(self) -> Host | None:
        """The model that checks examine, its weights not loaded; None where there is none."""
        return None

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint that :meth:`load` takes the weights from; None where there is none.

        Raises:
            FileNotFoundError: the file is not there.
            SetupError: it is no checkpoint.
        """
        return None

    @property
    @abstractmethod
    def loaded(self) -> bool:
        """Whether :meth:`view` can be asked for."""

    @abstractmethod
    def load(self, student: Host) -> None:
        """Make ready and verify, once; later calls return at once.

        Args:
            student: the student's model, whose preprocessing the images come in.

        Raises:
            FileNotFoundError: a file is not there.
            SetupError: it does not fit.
        """

    @abstractmethod
    def view(self, batch: Batch, student: View | None = None) -> View:
        """What losses may look at for one batch; nothing in it carries a gradient.

        Args:
            batch: the student's batch, images (N, 3, H, W) normalised for the student.
            student: the student's view, whose proposals a two-stage teacher scores.
        """

    @abstractmethod
    def offers(self, read: str) -> bool:
        """Whether its views have a property of this name."""

    def objections(self, loss: DistillationLoss) -> list[str]:
        """Why it cannot serve a loss, as what stands in a sentence behind the loss; none if it can.

        Args:
            loss: that fits the student.
        """
        missing = [read for read in loss.read_names() if not self.offers(read)]
        return (
            [
                f'reads {", ".join(missing)}, which the {self.name} ({self.info.head}, '
                f'{self.info.family}) does not offer'
            ]
            if missing
            else []
        )

    @abstractmethod
    def channels(self, stage: int | str, read: str = 'features') -> int:
        """Channels of the map of a stage, for adapters; known before :meth:`load`.

        Args:
            stage: index of a feature map, or a stage's name.
            read: the property of the view that the stage is found in.
        """

    def level_channels(self) -> list[int]:
        """Channels of each feature level."""
        return [self.channels(level) for level in range(self.info.num_levels)]

    @property
    def module(self) -> nn.Module | None:
        """What it trains with the student and adds to checkpoints; None for nothing.

        Known after :meth:`connect`. What of it asks for gradients is in the student's optimizer.
        """
        return None

    def own_losses(self, view: View, student: View) -> dict[str, Tensor]:
        """Losses of its own by name, to train :attr:`module` with; none for most teachers.

        Args:
            view: its view of the batch.
            student: the student's view, whose own loss has run.
        """
        return {}

    def after_step(self, student: Host) -> None:  # noqa: B027 - most teachers do nothing
        """What it does behind each step of training, such as averaging weights.

        Args:
            student: the student's model, with its new weights.
        """

    def predictor(self) -> nn.Module:
        """A model in single precision that predicts as this teacher does, for pictures and checks.

        Raises:
            SetupError: it makes no predictions.
        """
        raise SetupError(
            f'The {self.name} ({type(self).__name__}) makes no predictions of its own. Leave '
            'pictures and validation of it out.'
        )
