"""Teachers that are one model: what it tells of itself."""

from __future__ import annotations

from abc import abstractmethod

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
