# What every distillation of a segmentor needs: as of detectors, and random numbers that resume
# for its dropout.
_base_ = ['./distill.py']
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.DistillationPictureHook'),
    dict(type='kd_dense.RandomStateHook'),
]
