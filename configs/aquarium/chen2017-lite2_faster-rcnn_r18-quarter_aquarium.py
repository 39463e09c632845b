# EfficientNet-Lite2 from ImageNet teaches a small student from scratch: all losses of Chen et al. 2017
# python tools/train.py configs/aquarium/chen2017-lite2_faster-rcnn_r18-quarter_aquarium.py
_base_ = ['./faster-rcnn_r18-quarter_aquarium.py', '../../kd_dense/recipes/chen2017.py']
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
