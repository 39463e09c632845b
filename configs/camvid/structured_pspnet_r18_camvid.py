# PSPNet R101 teaches R18 on CamVid (train + val -> test, 11 classes)
# python tools/train.py configs/camvid/structured_pspnet_r18_camvid.py
_base_ = ['./pspnet_r18_camvid.py', '../../kd_dense/recipes/structured.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/camvid/pspnet_r101_camvid.py',
        checkpoint='work_dirs/pspnet_r101_camvid/iter_20000.pth',
    ),
    losses={{_base_.losses}},
)
optim_wrapper = dict(
    _delete_=True,
    constructor='kd_dense.AdversarialOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    discriminator={{_base_.discriminator}},
)
