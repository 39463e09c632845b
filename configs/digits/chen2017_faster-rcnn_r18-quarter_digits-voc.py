# The student taught, on digits in the form of Pascal VOC
# python tools/train.py configs/digits/chen2017_faster-rcnn_r18-quarter_digits-voc.py
_base_ = ['./faster-rcnn_r18-quarter_digits-voc.py', '../../kd_dense/recipes/chen2017.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits/faster-rcnn_r18-half_digits-voc.py',
        checkpoint='work_dirs/faster-rcnn_r18-half_digits-voc/iter_2000.pth',
    ),
    losses={{_base_.losses}},
)
