# FitNets, stage 1 of 2: hints at all levels of the neck train what is below the head, which stays as it is.
# No annotation is read. The head finds nothing yet: the hint loss on the validation set is logged in the place of AP.
# python tools/train.py configs/digits/fitnets-hint_gfl_r18-quarter_digits.py
_base_ = ['./gfl_r18-quarter_digits.py', '../../kd_dense/recipes/_base_/distill.py']
max_iters = 400
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    own_loss=False,
    trains=('backbone', 'neck'),
    teacher=dict(
        config='configs/digits/gfl_r18-half_digits.py',
        checkpoint='work_dirs/gfl_r18-half_digits/iter_2000.pth',
    ),
    losses=dict(hint=dict(type='kd_dense.FeatureImitation', region='all', weight=1)),
)
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.ValidationLossHook', interval=100),
]
train_cfg = dict(max_iters=max_iters, val_begin=10**9)  # never
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
