# The student taught by the teacher alone, on scenes without `three`: it knows that class from soft targets only
# (Hinton et al. 2015, section 3). No label is read.
# python tools/train.py configs/digits/soft_pspnet_r18-quarter_digits-seg-without-three.py
_base_ = ['./pspnet_r18-quarter_digits-seg-without-three.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    own_loss=False,
    trains=('backbone', 'decode_head'),  # the auxiliary head has only the own loss
    teacher=dict(
        config='configs/digits/pspnet_r18-half_digits-seg.py',
        checkpoint='work_dirs/pspnet_r18-half_digits-seg/iter_1500.pth',
    ),
    losses=dict(soft=dict(type='kd_dense.PixelWise', temperature=4, weight=1)),
)
custom_hooks = [
    dict(type='kd_dense.ClassMetricsHook'),
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.RandomStateHook'),
]
