# PKD: features of any two architectures, of one-stage students (Cao et al. 2022).
_base_ = ['./_base_/distill.py']
recipe = dict(preferred={'any': 3})
losses = dict(pkd=dict(type='kd_dense.PearsonDistillation', weight=10.0))
