# FitNets, stage 2 of 2: from the student of stage 1, the own loss and soft targets that count less and less
# python tools/train.py configs/digits/fitnets-hint_pspnet_r18-quarter_digits-seg.py
# python tools/train.py configs/digits/fitnets-soft_pspnet_r18-quarter_digits-seg.py
_base_ = ['./pspnet_r18-quarter_digits-seg.py', '../../kd_dense/recipes/_base_/distill_seg.py']
max_iters = 550
load_from = 'work_dirs/fitnets-hint_pspnet_r18-quarter_digits-seg/iter_250_student.pth'
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits/pspnet_r18-half_digits-seg.py',
        checkpoint='work_dirs/pspnet_r18-half_digits-seg/iter_1500.pth',
    ),
    # lambda = 4 at tau = 3: the paper has no tau^2 before its soft term, ours has
    losses=dict(soft=dict(type='kd_dense.PixelWise', temperature=3, weight=4 / 9)),
)
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.DistillationPictureHook'),
    dict(type='kd_dense.RandomStateHook'),
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
default_hooks = dict(checkpoint=dict(interval=50))
