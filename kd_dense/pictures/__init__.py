"""Pictures of a distillation: images with what is annotated and what models see."""

from .draw import Classes, draw_image
from .gallery import Gallery
from .samples import Objects, Result, Sample, evenly, predict
from .sheet import Column, draw_sheet

__all__ = [
    'Classes',
    'Column',
    'Gallery',
    'Objects',
    'Result',
    'Sample',
    'draw_image',
    'draw_sheet',
    'evenly',
    'predict',
]
