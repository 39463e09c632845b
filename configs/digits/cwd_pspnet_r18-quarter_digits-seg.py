# The student taught channel by channel
# python tools/train.py configs/digits/cwd_pspnet_r18-quarter_digits-seg.py
_base_ = ['./pspnet_r18-quarter_digits-seg.py', '../../kd_dense/recipes/cwd.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits/pspnet_r18-half_digits-seg.py',
        checkpoint='work_dirs/pspnet_r18-half_digits-seg/iter_1500.pth',
    ),
    losses={{_base_.losses}},
)
