# The student taught pixel by pixel, pair by pair, and by a discriminator, on CamVid
# python tools/train.py configs/camvid/structured_pspnet_r18-quarter_camvid.py
_base_ = ['./pspnet_r18-quarter_camvid.py', '../../kd_dense/recipes/structured.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/camvid/pspnet_r18-half_camvid.py',
        checkpoint='work_dirs/pspnet_r18-half_camvid/iter_2000.pth',
    ),
    losses={{_base_.losses}},
)
optim_wrapper = dict(
    _delete_=True,
    constructor='kd_dense.AdversarialOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    discriminator={{_base_.discriminator}},
)
