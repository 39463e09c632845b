# DIST: relations between and within classes, of segmentors (Huang et al. 2022).
_base_ = ['./_base_/distill_seg.py']
losses = dict(dist=dict(type='kd_dense.RelationDistillation', part='decode', weight=1.0))
