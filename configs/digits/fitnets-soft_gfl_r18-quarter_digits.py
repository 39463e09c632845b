# FitNets, stage 2 of 2: from the student of stage 1, the own loss and soft targets that count less and less
# python tools/train.py configs/digits/fitnets-hint_gfl_r18-quarter_digits.py
# python tools/train.py configs/digits/fitnets-soft_gfl_r18-quarter_digits.py
_base_ = ['./gfl_r18-quarter_digits.py', '../../kd_dense/recipes/_base_/distill.py']
max_iters = 800
load_from = 'work_dirs/fitnets-hint_gfl_r18-quarter_digits/iter_400_student.pth'
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits/gfl_r18-half_digits.py',
        checkpoint='work_dirs/gfl_r18-half_digits/iter_2000.pth',
    ),
    # lambda = 4 at tau = 3: the paper has no tau^2 before its soft term, ours has
    losses=dict(
        soft=dict(
            type='kd_dense.SoftTargets',
            region='main',
            activation='softmax',
            temperature=3,
            weight=4 / 9,
        )
    ),
)
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.DistillationPictureHook'),
    dict(  # lambda from 4 to 1
        type='kd_dense.WeightScheduleHook',
        schedules=dict(
            soft=dict(kind='linear', end=max_iters, start_factor=1.0, end_factor=0.25),
        ),
    ),
]
train_cfg = dict(max_iters=max_iters, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
