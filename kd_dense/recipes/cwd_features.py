# Channel-wise distillation of all feature levels (Shu et al. 2021, as for detectors).
_base_ = ['./_base_/distill.py']
recipe = dict(instead_of='cwd', families=['one-stage', 'two-stage', 'detr', 'features-only'])
losses = dict(cwd=dict(type='kd_dense.ChannelWise', stages=('levels',), temperature=1, weight=10))
