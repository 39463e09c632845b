"""Teachers that are one model: what it tells of itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from ..hosts import Host
from ..views import HostInfo, host_info, level_channels, stage_channels, view_class
from .base import Teacher


class ModelTeacher(Teacher):
    """A teacher that is one host."""

    @property
    @abstractmethod
    def model(self) -> Host:
        """The host."""

    @property
    def info(self) -> HostInfo:
        """What has to agree with the student."""
        return host_info(self.model)

    def offers(self, read: str) -> bool:
        """Whether its views have a property of this name."""
        return hasattr(view_class(self.model), read)

    def channels(self, stage: int | str, read: str = 'features') -> int:
        """Channels of the map of a stage, found by looking at one small black picture."""
        return stage_channels(self.model, stage, read)

    def level_channels(self) -> list[int]:
        """Channels of each feature level."""
        return level_channels(self.model)


def inference(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """What a teacher's views are computed in: without gradients, in its own precision.

    Args:
        device: that it runs on.
    """

    @contextmanager
    def enter() -> Iterator[None]:
        # no_grad, not inference_mode: losses save the outputs for the student's backward pass
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield

    return enter
