# The student taught, on digits in the form of Pascal VOC
# python tools/train.py configs/digits_voc_chen2017.py
_base_ = ['./digits_voc_faster_rcnn_student.py', './_base_/recipes/chen2017.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits_voc_faster_rcnn_teacher.py',
        checkpoint='work_dirs/digits_voc_faster_rcnn_teacher/iter_2000.pth',
    ),
    losses={{_base_.losses}},
)
