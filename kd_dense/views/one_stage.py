"""The view of one-stage detectors: mmdet's ``SingleStageDetector`` and its kin.

Shapes as in :mod:`kd_dense.views.dense`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from ..errors import SetupError
from ..hosts import Host
from ..hosts.heads import (
    BOX,
    CLASS,
    anchors_of,
    decode_boxes,
    flatten_levels,
    is_one_stage,
    knows_towers,
    predicts_bins,
    run_tower,
    tower_layers,
)
from ..registry import VIEWS
from .dense import DenseView
from .info import HostInfo
from .readable import readable
from .view import Note


@VIEWS.register_module()
class OneStageView(DenseView):
    """What losses may look at in a one-stage detector for one batch."""

    family = 'one-stage'

    @staticmethod
    def head_of(model: Host) -> Host:
        """The box head."""
        return model.bbox_head

    @staticmethod
    def fits(model: Host) -> bool:
        """Whether this view fits a model."""
        return is_one_stage(model)

    @classmethod
    def describe(cls, model: Host) -> HostInfo:
        """Read off a model what two models may have to agree in."""
        head = model.bbox_head
        dense = cls._dense_info(head)
        return HostInfo(
            **dense,
            num_classes=head.num_classes,
            boxes=f'distribution over {head.reg_max + 1} bins'
            if predicts_bins(head)
            else f'4 values by {type(getattr(head, "bbox_coder", head)).__name__}',
            head=type(head).__name__,
            anchors='' if dense['num_anchors'] == 1 else anchors_of(head),
        )

    @readable(agree=('family', 'strides', 'num_anchors', 'anchors'))
    def decoded_boxes(self) -> Tensor:
        """Predicted boxes, xyxy in pixels, (N, P, 4), of heads whose encoding is known."""
        return self.decode(self.flat_box_logits)

    def decode(self, encoded: Tensor) -> Tensor:
        """Boxes, xyxy in pixels, (N, P, 4), as this head encodes them, (N, P, 4 * bins)."""
        strides = self.level_index.new_tensor(self.strides)[self.level_index]
        return decode_boxes(self.head, encoded, self.anchors, strides)

    def _class_maps(self) -> list[Tensor]:
        return self._predicted(CLASS) if knows_towers(self.head) else super()._class_maps()

    def _box_maps(self) -> list[Tensor]:
        return self._predicted(BOX) if knows_towers(self.head) else super()._box_maps()

    def _predicted(self, tower: str) -> list[Tensor]:
        features = self.features
        with self._context():
            return run_tower(self.head, tower, features)

    def tower_maps(self, tower: str, layers: int) -> list[Tensor]:
        """What some of the last layers of a tower read, noted while the model's own loss ran.

        Args:
            tower: ``'cls'`` or ``'box'``.
            layers: how many last layers, the predicting one included.

        Returns:
            L maps (N, C, H, W).
        """
        before = len(tower_layers(self.head, tower)) - layers
        return self._tower_maps[tower, before - 1] if before else list(self.features)

    @cached_property
    def _tower_maps(self) -> dict[tuple[str, int], list[Tensor]]:
        return defaultdict(list)

    @classmethod
    def tower_width(cls, model: Host, tower: str, layers: int) -> int:
        """Channels of what some of the last layers of a tower read.

        Args:
            model: a host whose head's towers are known.
            tower, layers: see :meth:`tower_maps`.

        Raises:
            SetupError: the tower has fewer layers.
        """
        found: Any = tower_layers(cls.head_of(model), tower)
        if not 1 <= layers <= len(found):
            raise SetupError(
                f'layers is {layers}; the {tower} tower of this {type(model.bbox_head).__name__} '
                f'has 1 to {len(found)}, the predicting one included.'
            )
        return found[-layers].in_channels

    def tail(self, tower: str, maps: Sequence[Tensor], layers: int) -> Tensor:
        """What the last layers of a tower predict from the maps of another model.

        The gradient goes through the layers to the maps; of a teacher, whose weights want none, it
        stops there. All is computed in the number type of the maps.

        Args:
            tower: ``'cls'`` or ``'box'``.
            maps: L maps (N, C, H, W).
            layers: how many last layers, the predicting one included.

        Returns:
            all levels side by side, (N, P, K) or (N, P, 4 * bins), as :attr:`flat_cls_logits` and
            :attr:`flat_box_logits` hold them.
        """
        found = run_tower(self.head, tower, maps, layers)
        return flatten_levels(found, found[0].shape[1] // self.num_anchors)

    def _notes(self) -> list[Note]:
        notes = super()._notes()
        if not knows_towers(self.head):
            return notes
        for tower in (CLASS, BOX):
            for index, layer in enumerate(tower_layers(self.head, tower)[:-1]):

                def note_map(_: tuple, output: Tensor, key: tuple = (tower, index)) -> None:
                    self._tower_maps[key].append(output)

                notes.append((layer, 'forward', note_map))
        return notes
