# The student taught pixel by pixel, pair by pair, and by a discriminator
# python tools/train.py configs/digits_structured.py
_base_ = ['./digits_pspnet_student.py', './_base_/recipes/structured.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits_pspnet_teacher.py',
        checkpoint='work_dirs/digits_pspnet_teacher/iter_1500.pth',
    ),
    losses={{_base_.losses}},
)
optim_wrapper = dict(
    _delete_=True,
    constructor='kd_dense.AdversarialOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    discriminator={{_base_.discriminator}},
)
