# What every distillation of a segmentor needs: as of detectors, and random numbers for its dropout that resume.
_base_ = ['./distill.py']
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.DistillationPictureHook'),
    dict(type='kd_dense.RandomStateHook'),
]
