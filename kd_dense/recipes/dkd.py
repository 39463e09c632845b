# DKD: the target class and all others apart, of two-stage students (Zhao et al. 2022).
_base_ = ['./_base_/distill.py']
losses = dict(dkd=dict(type='kd_dense.DecoupledTargets', alpha=1.0, beta=0.25, weight=1.0))
