# The student taught by localization distillation, classification distillation and feature imitation
# python tools/train.py configs/aquarium/ld_gfl_r18-quarter_aquarium.py
_base_ = ['./gfl_r18-quarter_aquarium.py', '../../kd_dense/recipes/_base_/distill.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/aquarium/gfl_r18-half_aquarium.py',
        checkpoint='work_dirs/gfl_r18-half_aquarium/iter_2000.pth',
    ),
    losses=dict(
        ld=dict(type='kd_dense.LocalizationDistillation', region='main', weight=0.25),
        vlr=dict(type='kd_dense.LocalizationDistillation', region='vlr', weight=0.25),
        cls=dict(
            type='kd_dense.SoftTargets',
            region='main',
            temperature=2,
            activation='softmax',
            over_classes='mean',
            weight=10,
        ),
        imitation=dict(type='kd_dense.FeatureImitation', region='all', weight=2),
    ),
)
