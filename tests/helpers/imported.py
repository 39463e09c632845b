"""What processes of :mod:`tests.helpers.processes` find imported."""

import gc

import mmdet.apis
import mmseg.apis
import torch

import kd_dense.commands.test
import kd_dense.commands.train
import kd_dense.hooks
from tests.helpers import quick

__all__ = ['kd_dense', 'mmdet', 'mmseg', 'quick', 'torch']

gc.collect()
gc.freeze()  # what was imported is garbage in none of them
