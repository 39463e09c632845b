"""What training left out because it was not finite: counted, logged, and told of now and then."""

from __future__ import annotations

import logging
from collections import Counter

from mmengine.logging import MessageHub, print_log


class LeftOut:
    """Counts by name, logged as ``train/SCALAR/NAME``; told at the 1st, 2nd, 4th, 8th time and on.

    Args:
        scalar: what the counts are logged as.
    """

    def __init__(self, scalar: str) -> None:
        self.scalar = scalar
        self.counts: Counter[str] = Counter()

    def note(self, name: str, what: str, way_out: str) -> None:
        """Count one more.

        Args:
            name: of what was left out.
            what: a sentence of what happened, without its full stop.
            way_out: what to do if it goes on.
        """
        self.counts[name] += 1
        count = self.counts[name]
        MessageHub.get_current_instance().update_scalar(f'train/{self.scalar}/{name}', count)
        if count & (count - 1) == 0:
            message = f'{what} ({count} by now). If this goes on, {way_out}.'
            print_log(message, 'current', logging.WARNING)
