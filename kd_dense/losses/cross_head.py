"""CrossKD: the teacher's head predicts from maps of the student's head (Wang et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from ..errors import SetupError
from ..registry import MODELS
from ..views import OneStageView, Read, host_info
from ..views.info import BINS, BOXES, TOWERS
from .adapters import build_adapters, reset_adapters
from .base import DistillationLoss, global_divisor
from .binary import binary_distillation, box_disagreement
from .checks import check_choice, check_temperature
from .localization import edge_kl
from .parts import part_demands
from .regions import main_region

if TYPE_CHECKING:
    from ..teachers import Teacher

KNOWN = "heads as mmdet's GFLHead, ATSSHead, RetinaHead and FCOSHead"
AGREE = ('family', 'strides', 'num_anchors')  # it is the teacher's own predictions that it compares


@MODELS.register_module()
class CrossHead(DistillationLoss):
    r"""What the teacher's last layers predict from the student's head is what the teacher predicts.

    A dense head is a tower of convolutions and a layer that predicts. The map between two layers
    of the student's tower goes through the teacher's last layers, which are frozen; their
    prediction :math:`\hat p` is compared with the teacher's own, p. The student's predicting layer,
    and with it its own loss, is left alone: no prediction has two targets.

    ``part='cls'``: weight * :math:`\sum_i \sum_j |\sigma(p_{ij}) - \sigma(\hat p_{ij})| \,
    BCE(\hat p_{ij}, \sigma(p_{ij}))` (quality focal loss with the teacher's score as its label)
    over all positions i that are not padding and all classes j. ``part='box'``: weight * the sum
    over the student's positives of KL(P(p/T) || P(\hat p/T)) T^2, summed over the edges, where a
    GFL head predicts bins, and of 1 - GIoU of the decoded boxes elsewhere. Both are divided by the
    positives of the student's own assignment.

    Sources: [1] Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection",
    CVPR 2024, arXiv 2306.11369. Written from the paper alone; its code was not looked at.

    Differs from [1], as far as that can be told: the class term is divided by the positives, as
    focal losses are, and not by all positions; the exponent of the quality focal loss, the
    temperature and the weights are our choice; where the towers' channels differ a 1x1 convolution
    is trained, which [1] does not have. The teacher's layers compute in float32.

    Args:
        part: ``'cls'`` or ``'box'``.
        weight: see :class:`DistillationLoss`.
        layers: how many of the teacher's last layers run, the predicting one included; the
            student's map is the one that as many of its own layers read. 2 is best in [1] (the map
            behind the third of four convolutions).
        temperature: T, of bins.

    Raises:
        SetupError: an unknown choice, a temperature that is not positive, or more layers than a
            tower has.
    """

    runs_teacher = True

    def __init__(
        self,
        part: Literal['cls', 'box'] = 'cls',
        weight: float = 1.0,
        layers: int = 2,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_choice('part', part, ('cls', 'box'))
        check_temperature(temperature)
        agree = (*AGREE, 'activation') if part == 'cls' else AGREE
        self.reads = (Read(f'{part}_logits', agree), Read('assignment', AGREE))
        self.part = part
        self.layers = layers
        self.temperature = temperature
        self.adapters = nn.ModuleList()

    def connect(self, student: nn.Module, teacher: Teacher) -> None:
        """Build an adapter where the channels of the towers differ.

        Raises:
            SetupError: the teacher's head is not known, or a tower has too few layers.
        """
        info, theirs, model = host_info(student), teacher.info, teacher.model
        if TOWERS not in info.abilities or theirs.family != info.family:
            return  # refused with the pair
        boxes = self.part == 'box' and not theirs.abilities & {BINS, BOXES}
        if model is None or TOWERS not in theirs.abilities or boxes:
            raise SetupError(
                f'CrossHead runs layers of the head of the {teacher.name}, which are known of '
                f'{KNOWN}, found {theirs.head}. Choose another teacher or loss.'
            )
        widths = [
            OneStageView.tower_width(each, self.part, self.layers) for each in (student, model)
        ]
        self.adapters = build_adapters([(widths[0], widths[1])])

    def init_weights(self) -> None:
        """Initialise the adapter."""
        reset_adapters(self.adapters)

    def demands(self, student: nn.Module) -> list[str]:
        """A head whose layers and label assignment are known; scores by sigmoid for classes."""
        found = part_demands('dense', student)
        info = host_info(student)
        if not found and TOWERS not in info.abilities:
            found.append(f'it needs the layers of the head, known of {KNOWN}, found {info.head}')
        if not found and self.part == 'cls' and info.activation != 'sigmoid':
            found.append('it compares classes one by one, and this head scores them by softmax')
        return found

    def forward(self, student: OneStageView, teacher: OneStageView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        (adapter,) = self.adapters or [nn.Identity()]
        maps = [adapter(m.float()) for m in student.tower_maps(self.part, self.layers)]
        crossed = teacher.tail(self.part, maps, self.layers)
        positives = main_region(student, student)
        if self.part == 'cls':
            chosen = student.eligible
            total = binary_distillation(crossed[chosen], teacher.flat_cls_logits[chosen]).sum()
        else:
            total = self._box_errors(crossed, teacher, positives).sum()
        return total / global_divisor(positives.sum())

    def _box_errors(self, crossed: Tensor, teacher: OneStageView, chosen: Tensor) -> Tensor:
        """What the chosen boxes, (N, P), of the teacher's crossed and own predictions differ by."""
        if BINS in host_info(teacher.model).abilities:
            ours, theirs = crossed[chosen], teacher.flat_box_logits[chosen]
            return edge_kl(ours, theirs, ours.shape[-1] // 4, self.temperature)
        return box_disagreement(teacher.decode(crossed)[chosen], teacher.decoded_boxes[chosen])
