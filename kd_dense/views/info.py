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
MATCHES = 'matching costs'  # what its own assigner matches queries with objects by is known
MASKS = 'masks of proposals'  # the second stage predicts the mask of each


def compared_field(words: str, **options: Any) -> Any:
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

    family: str = compared_field('host family')
    strides: tuple[float, ...] = compared_field('strides of the feature levels')
    num_levels: int = compared_field('number of feature levels', init=False)
    num_classes: int = compared_field('number of classes')
    activation: str = compared_field('kind of class scores')
    num_anchors: int = compared_field('predictions per position', default=1)
    anchors: str = compared_field('shapes of the anchors', default='')
    boxes: str = compared_field('encoding of boxes')
    roi_scores: str = compared_field("kind of the proposals' class scores", default='')
    roi_boxes: str = compared_field("encoding of the proposals' boxes", default='')
    masks: str = compared_field('masks of proposals', default='')
    head: str = field(compare=False)
    abilities: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'num_levels', len(self.strides))

    @classmethod
    def compared(cls) -> dict[str, str]:
        """In which fields two models may have to agree, with the words for messages."""
        return {f.name: f.metadata['words'] for f in fields(cls) if 'words' in f.metadata}
