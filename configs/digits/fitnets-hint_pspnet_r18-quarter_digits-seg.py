# FitNets, stage 1 of 2: a hint at the last stage of the backbone trains the backbone; the heads stay as they are.
# No label picture is read; the hint loss on the validation set is logged in the place of mIoU.
# python tools/train.py configs/digits/fitnets-hint_pspnet_r18-quarter_digits-seg.py
_base_ = ['./pspnet_r18-quarter_digits-seg.py', '../../kd_dense/recipes/_base_/distill_seg.py']
max_iters = 250
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    own_loss=False,
    trains=('backbone',),
    teacher=dict(
        config='configs/digits/pspnet_r18-half_digits-seg.py',
        checkpoint='work_dirs/pspnet_r18-half_digits-seg/iter_1500.pth',
    ),
    losses=dict(
        hint=dict(
            type='kd_dense.FeatureImitation',
            stage=3,
            adapter=dict(kernel=3, norm=True, relu=True),  # the hint is taken behind a ReLU
            weight=1,
        )
    ),
)
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.RandomStateHook'),
    dict(type='kd_dense.ValidationLossHook', interval=50),
]
train_cfg = dict(max_iters=max_iters, val_begin=10**9)  # never
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
default_hooks = dict(checkpoint=dict(interval=50))
