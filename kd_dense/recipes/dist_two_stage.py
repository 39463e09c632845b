# DIST on the sampled proposals of two-stage students (Huang et al. 2022).
_base_ = ['./_base_/distill.py']
recipe = dict(instead_of='dist', families=['two-stage'])
losses = dict(dist=dict(type='kd_dense.RelationDistillation', part='roi', weight=1.0))
