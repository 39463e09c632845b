"""Peers: models that train beside the student and are not shipped."""

from .base import TrainsBeside
from .build import Peers, build_peers
from .peer import Peer
from .wider import Wider

__all__ = ['Peer', 'Peers', 'TrainsBeside', 'Wider', 'build_peers']
