# EfficientNet-Lite2 from ImageNet teaches a small student from scratch: localization and classification distillation
# python tools/train.py configs/aquarium/ld-lite2_gfl_r18-quarter_aquarium.py
_base_ = ['./gfl_r18-quarter_aquarium.py', '../../kd_dense/recipes/ld.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/aquarium/gfl_lite2_aquarium.py',
        checkpoint='work_dirs/gfl_lite2_aquarium/iter_800.pth',
    ),
    losses={{_base_.losses}},
)
