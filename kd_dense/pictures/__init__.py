"""Pictures of a distillation: sheets of images with what is annotated and what models see."""

from __future__ import annotations

from torch import nn

from ..views import SegmentationView, view_class
from .detection import DetectionGallery
from .gallery import Gallery, Image
from .segmentation import SegmentationGallery
from .sheet import Column, draw_sheet


def gallery_class(model: nn.Module) -> type[Gallery]:
    """The kind of gallery that shows what a model does."""
    known = issubclass(view_class(model), SegmentationView)
    return SegmentationGallery if known else DetectionGallery


__all__ = ['Column', 'Gallery', 'Image', 'draw_sheet', 'gallery_class']
