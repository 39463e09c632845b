# The student taught by hints, weighted soft cross entropy and bounded regression
# python tools/train.py configs/aquarium_chen2017.py
_base_ = ['./aquarium_faster_rcnn_student.py', './_base_/recipes/chen2017.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/aquarium_faster_rcnn_teacher.py',
        checkpoint='work_dirs/aquarium_faster_rcnn_teacher/iter_2000.pth',
    ),
    losses={{_base_.losses}},
)
