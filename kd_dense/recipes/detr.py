# Shared queries: a decoder asked by the teacher's queries answers as it does (Wang et al. 2024).
_base_ = ['./_base_/distill.py']
recipe = dict(preferred={'detr': 1})
losses = dict(queries=dict(type='kd_dense.SharedQueries', weight=1.0))
