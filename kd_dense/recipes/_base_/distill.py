# What every distillation needs: kd_dense's types, the student's own checkpoints, and reports.
custom_imports = dict(imports=['kd_dense', 'kd_dense.hooks'], allow_failed_imports=False)
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.DistillationPictureHook'),
]
