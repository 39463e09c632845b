# The student taught pixel by pixel, on CamVid
# python tools/train.py configs/camvid/pixel_pspnet_r18-quarter_camvid.py
_base_ = ['./pspnet_r18-quarter_camvid.py', '../../kd_dense/recipes/structured.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/camvid/pspnet_r18-half_camvid.py',
        checkpoint='work_dirs/pspnet_r18-half_camvid/iter_2000.pth',
    ),
    losses=dict(pixel={{_base_.losses.pixel}}),
)
