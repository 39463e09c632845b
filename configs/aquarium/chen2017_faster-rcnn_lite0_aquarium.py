# EfficientNet-Lite2 teaches Lite0: hints, weighted soft cross entropy and bounded regression
# python tools/train.py configs/aquarium/chen2017_faster-rcnn_lite0_aquarium.py
_base_ = ['./faster-rcnn_lite0_aquarium.py', '../../kd_dense/recipes/chen2017.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/aquarium/faster-rcnn_lite2_aquarium.py',
        checkpoint='work_dirs/faster-rcnn_lite2_aquarium/iter_800.pth',
    ),
    losses={{_base_.losses}},
)
