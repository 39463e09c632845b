# EfficientNet-Lite2 as ImageNet left it, no detector, teaches a small GFL from scratch: features, by PKD
# python tools/train.py configs/aquarium/pkd-imagenet_gfl_r18-quarter_aquarium.py
_base_ = [
    './gfl_r18-quarter_aquarium.py',
    '../_base_/models/teacher_lite2_imagenet.py',
    '../../kd_dense/recipes/pkd.py',
]
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher={{_base_.imagenet_teacher}},
    losses={{_base_.losses}},
)
