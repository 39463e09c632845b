# The student taught channel by channel
# python tools/train.py configs/digits_cwd.py
_base_ = ['./digits_pspnet_student.py', './_base_/recipes/cwd.py']
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
