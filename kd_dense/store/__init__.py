"""Stores: what a teacher said of fixed views of the training images, kept in files.

An augmented image can be shown to a teacher again, but what a teacher said of an image cannot be
augmented: no flip, crop or scaling of its answers is what it says of the flipped, cropped or scaled
image. So views are kept and not images: each view is the training's own pipeline under a seed of
its own, which gives the same picture whenever it runs.
"""

from .dataset import StoredViews, read_from_store, with_stored_views
from .kept import STORABLE, Kept
from .manifest import Manifest
from .store import Store

__all__ = [
    'STORABLE',
    'Kept',
    'Manifest',
    'Store',
    'StoredViews',
    'read_from_store',
    'with_stored_views',
]
