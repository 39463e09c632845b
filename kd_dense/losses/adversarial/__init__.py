"""Losses that train something of their own: a discriminator, with its optimizer."""

from .holistic import Holistic
from .optim import AdversarialOptimWrapper, AdversarialOptimWrapperConstructor

__all__ = ['AdversarialOptimWrapper', 'AdversarialOptimWrapperConstructor', 'Holistic']
