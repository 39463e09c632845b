"""KD-DETR: the student's decoder answers the teacher's queries (Wang et al. 2024)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..hosts.detr import class_scores
from ..hosts.rng import numbered_rng
from ..registry import MODELS
from ..views import DetrView
from .base import global_divisor
from .checks import check_choice, check_count, check_temperature
from .functional import sigmoid_kl, softmax_kl
from .queries import OnQueries


@MODELS.register_module()
class SharedQueries(OnQueries):
    r"""Asked the same by the same queries, the student's decoder answers what the teacher's does.

    What enters the teacher's decoder (queries, their positions, reference points) enters the
    student's too, in a pass of its own; each decoder looks at the memory of its own encoder. The
    i-th answers belong together, without any matching:
    weight * :math:`\sum_l \sum_i w_i \, (cls \cdot KL(P(t_i) || P(s_i)) + l1 \cdot
    ||b_i^t - b_i^s||_1 + giou \cdot (1 - GIoU(b_i^t, b_i^s))) / \sum_i w_i`, over the decoder's
    layers l and the teacher's queries i, with KL times T^2 summed over the classes (Bernoullis of
    sigmoid heads) and boxes as shares of the image. :math:`w_i` is the best score of a class that
    the teacher's last layer gives. The student's own queries, and its own loss, are left alone.
    Numbers of queries, strides and levels need not agree.

    Sources: [1] Wang et al., "KD-DETR: Knowledge Distillation for Detection Transformer with
    Consistent Distillation Points Sampling", CVPR 2024, arXiv 2211.08071: its specific sampling.

    Our choice, as no code of [1] could be read: the divisor, the temperature, one weight of a query
    in all layers, and the counts of 1, 5 and 2. The general sampling of [1], random queries, is not
    done. Everything is computed in float32. Dropout of the additional pass has random numbers of
    its own, the same again in a resumed training.

    Args:
        weight: see :class:`DistillationLoss`.
        cls, l1, giou: what the three parts count.
        top: how many of the teacher's queries, those of the best scores, are asked in an image;
            None for all. Fewer make the additional pass short; but queries attend to each other,
            so that they are then not asked quite the same.
        layers: ``'all'``, each layer of the decoder with the teacher's of the same rank, where both
            have as many, and else the last; ``'last'``.
        temperature: T.
        seed: of the dropout.

    Raises:
        SetupError: an unknown choice, or a value out of its range.
    """

    reads = ('queries', 'query_logits', 'query_boxes')

    def __init__(
        self,
        weight: float = 1.0,
        cls: float = 1.0,
        l1: float = 5.0,
        giou: float = 2.0,
        top: int | None = None,
        layers: Literal['all', 'last'] = 'all',
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(weight, cls, l1, giou)
        if top is not None:
            check_count('top', top)
        check_choice('layers', layers, ('all', 'last'))
        check_temperature(temperature)
        self.top = top
        self.layers = layers
        self.temperature = temperature
        self.seed = seed
        self.drawn: Tensor
        self.register_buffer('drawn', torch.zeros((), dtype=torch.long))

    def forward(self, student: DetrView, teacher: DetrView) -> Tensor:
        """The raw loss of one batch, a scalar."""
        queries = {name: each.detach() for name, each in teacher.queries.items()}
        logits, boxes = teacher.query_logits.detach(), teacher.query_boxes.detach()
        weights = class_scores(logits[-1], teacher.activation).amax(dim=-1)
        if self.top is not None and self.top < weights.shape[1]:
            weights, chosen = weights.topk(self.top, dim=1)
            queries = {name: _gathered(each, chosen) for name, each in queries.items()}
            logits, boxes = (
                torch.stack([_gathered(layer, chosen) for layer in each])
                for each in (logits, boxes)
            )
        with numbered_rng(self.seed, int(self.drawn), logits.device):
            answers, answered_boxes = student.answers(queries)
        self.drawn += 1
        if self.layers == 'last' or len(answers) != len(logits):
            answers, answered_boxes = answers[-1:], answered_boxes[-1:]
            logits, boxes = logits[-1:], boxes[-1:]
        if student.activation == 'sigmoid':
            classes = sigmoid_kl(answers, logits, self.temperature).sum(dim=-1)
        else:
            classes = softmax_kl(answers, logits, self.temperature)
        total = (weights * self.differences(classes, answered_boxes, boxes)).sum()
        return total / global_divisor(weights.sum())


def _gathered(each: Tensor, chosen: Tensor) -> Tensor:
    """Of what is said of each query, (N, Q, C), that of the chosen ones, (N, top)."""
    return each.gather(1, chosen[..., None].expand(-1, -1, each.shape[-1]))
