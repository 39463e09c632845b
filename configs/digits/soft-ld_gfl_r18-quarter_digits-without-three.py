# The student taught by the teacher alone, on scenes without `three`: it knows that class from soft targets only
# (after Hinton et al. 2015, section 3). No annotation is read, and no hint brings the class in by another door.
# python tools/train.py configs/digits/soft-ld_gfl_r18-quarter_digits-without-three.py
_base_ = ['./gfl_r18-quarter_digits-without-three.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    own_loss=False,
    teacher=dict(
        config='configs/digits/gfl_r18-half_digits.py',
        checkpoint='work_dirs/gfl_r18-half_digits/iter_2000.pth',
    ),
    losses=dict(
        soft=dict(type='kd_dense.SoftTargets', region='all', temperature=2, weight=10),
        ld=dict(type='kd_dense.LocalizationDistillation', region='all', weight=0.25),
    ),
)
custom_hooks = [
    dict(type='kd_dense.ClassMetricsHook'),
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
]
