"""What processes of :mod:`tests.helpers.processes` find imported."""

import mmdet.apis
import mmseg.apis
import torch

import kd_dense.commands.test
import kd_dense.commands.train
import kd_dense.hooks

__all__ = ['kd_dense', 'mmdet', 'mmseg', 'torch']
