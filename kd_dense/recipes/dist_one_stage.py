# DIST on the dense head of one-stage students (Huang et al. 2022).
_base_ = ['./_base_/distill.py']
recipe = dict(instead_of='dist', families=['one-stage'])
losses = dict(dist=dict(type='kd_dense.RelationDistillation', part='dense', weight=1.0))
