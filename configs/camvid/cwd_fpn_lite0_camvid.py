# EfficientNet-Lite2 teaches Lite0 channel by channel, on CamVid
# python tools/train.py configs/camvid/cwd_fpn_lite0_camvid.py
_base_ = ['./fpn_lite0_camvid.py', '../../kd_dense/recipes/cwd.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/camvid/fpn_lite2_camvid.py',
        checkpoint='work_dirs/fpn_lite2_camvid/iter_800.pth',
    ),
    losses={{_base_.losses}},
)
