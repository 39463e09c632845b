# The student taught pixel by pixel, pair by pair, and by a discriminator, on CamVid
# python tools/train.py configs/camvid_structured.py
_base_ = ['./camvid_pspnet_student.py', './_base_/recipes/structured.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/camvid_pspnet_teacher.py',
        checkpoint='work_dirs/camvid_pspnet_teacher/iter_2000.pth',
    ),
    losses={{_base_.losses}},
)
optim_wrapper = dict(
    _delete_=True,
    constructor='kd_dense.AdversarialOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    discriminator={{_base_.discriminator}},
)
