# Queries of a detection transformer matched with what any detector finds (Chang et al. 2023).
_base_ = ['./_base_/distill.py']
recipe = dict(preferred={'detr': 2})
losses = dict(matching=dict(type='kd_dense.QueryMatching', weight=1.0))
