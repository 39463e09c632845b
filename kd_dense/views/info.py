"""The description of a host: what two models may have to agree in, and what one can do."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

# what a host's heads can do, as far as losses ask for it
LABELS = 'label assignment'  # the label of each prediction that its own loss used is known
ANCHORS = 'assigned anchors'  # and with it the anchors that the assigner saw
ATSS = 'ATSS assignment'  # which thresholds by ATSS
BINS = 'distributions over bins'  # each edge of a box is a distribution, as in GFL
BOXES = 'decoded boxes'  # the boxes of the dense head can be decoded
TOWERS = 'towers'  # the class and the box half of the dense head can be run layer by layer
DELTAS = 'deltas from anchors'  # boxes of the dense head are encoded as deltas
ROI_DELTAS = 'deltas from proposals'  # and those of the second stage
MASKS = 'masks of proposals'  # the second stage predicts the mask of each


def _compared(words: str, **options: Any) -> Any:
    """A field in which two models may have to agree; the words are for messages."""
    return field(metadata={'words': words}, **options)


@dataclass(frozen=True, kw_only=True)
class HostInfo:
    """What is read off one built model. A view of other hosts may have a subclass with more fields.

    Args:
        family: host family, e.g. ``'one-stage'``.
        strides: pixels per position of each feature level.
        num_classes: foreground classes.
        activation: how class logits become scores, ``'sigmoid'`` or ``'softmax'``.
        num_anchors: predictions per position.
        anchors: their shapes in words, where a position has several.
        boxes: how boxes are encoded, e.g. ``'distribution over 17 bins'``.
        roi_scores: how class logits of proposals become scores; empty without a second stage.
        roi_boxes: how boxes of proposals are encoded; empty without a second stage.
        masks: what kind of masks proposals have; empty without a second stage.
        head: class name of the head, for messages.
        abilities: what its heads can do, of the constants of this module.
    """

    family: str = _compared('host family')
    strides: tuple[float, ...] = _compared('strides of the feature levels')
    num_levels: int = _compared('number of feature levels', init=False)
    num_classes: int = _compared('number of classes')
    activation: str = _compared('kind of class scores')
    num_anchors: int = _compared('predictions per position', default=1)
    anchors: str = _compared('shapes of the anchors', default='')
    boxes: str = _compared('encoding of boxes')
    roi_scores: str = _compared("kind of the proposals' class scores", default='')
    roi_boxes: str = _compared("encoding of the proposals' boxes", default='')
    masks: str = _compared('masks of proposals', default='')
    head: str = field(compare=False)
    abilities: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'num_levels', len(self.strides))

    @classmethod
    def compared(cls) -> dict[str, str]:
        """In which fields two models may have to agree, with the words for messages."""
        return {f.name: f.metadata['words'] for f in fields(cls) if 'words' in f.metadata}
