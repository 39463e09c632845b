# EfficientNet-Lite2 teaches Lite0: localization and classification distillation
# python tools/train.py configs/aquarium/ld_gfl_lite0_aquarium.py
_base_ = ['./gfl_lite0_aquarium.py', '../../kd_dense/recipes/ld.py']
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
