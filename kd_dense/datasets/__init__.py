"""The embedded dataset: real handwriting composed into detection and segmentation scenes."""

from .digits import CLASSES, SceneSettings
from .export import make_digits

__all__ = ['CLASSES', 'SceneSettings', 'make_digits']
