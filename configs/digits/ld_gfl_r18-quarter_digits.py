# The student taught by localization distillation, classification distillation and feature imitation
# python tools/train.py configs/digits/ld_gfl_r18-quarter_digits.py
_base_ = ['./gfl_r18-quarter_digits.py', '../../kd_dense/recipes/_base_/distill.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits/gfl_r18-half_digits.py',
        checkpoint='work_dirs/gfl_r18-half_digits/iter_2000.pth',
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
