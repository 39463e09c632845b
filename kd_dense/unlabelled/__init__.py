"""Images without labels beside labelled ones: the teacher alone teaches them.

A data sample says ``labelled=False`` in its metainfo. The student's own loss never sees such an
image; the distillation losses that need no annotation do.
"""

from .check import check_unlabelled
from .dataset import UnlabelledImages, WithUnlabelled
from .parts import MARK, Part, is_labelled, parted
from .sampler import BesideLabelled
from .use import REST, check_folder, use_unlabelled

__all__ = [
    'MARK',
    'REST',
    'BesideLabelled',
    'Part',
    'UnlabelledImages',
    'WithUnlabelled',
    'check_folder',
    'check_unlabelled',
    'is_labelled',
    'parted',
    'use_unlabelled',
]
