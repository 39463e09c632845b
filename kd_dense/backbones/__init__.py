"""Backbones of ours for detectors and segmentors alike, and how they get their ImageNet weights."""

from .pretrained import PretrainedPackage
from .timm import TimmBackbone

__all__ = ['PretrainedPackage', 'TimmBackbone']
