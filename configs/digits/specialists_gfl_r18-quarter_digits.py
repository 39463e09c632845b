# Taught by one who knows all digits and by two specialists, whose classes are found by name (Hinton et al. 2015)
# python tools/train.py configs/digits/specialists_gfl_r18-quarter_digits.py
_base_ = ['./gfl_r18-quarter_digits.py', '../../kd_dense/recipes/_base_/distill.py']
soft = dict(
    type='kd_dense.SoftTargets', region='main', activation='sigmoid', temperature=2, weight=5
)
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teachers=dict(
        all=dict(
            config='configs/digits/gfl_r18-half_digits.py',
            checkpoint='work_dirs/gfl_r18-half_digits/iter_2000.pth',
        ),
        round=dict(
            config='configs/digits/gfl_r18-half_digits-round.py',
            checkpoint='work_dirs/gfl_r18-half_digits-round/iter_2000.pth',
            classes='by name',
        ),
        rest=dict(
            config='configs/digits/gfl_r18-half_digits-rest.py',
            checkpoint='work_dirs/gfl_r18-half_digits-rest/iter_2000.pth',
            classes='by name',
        ),
    ),
    losses=dict(
        ld=dict(
            type='kd_dense.LocalizationDistillation', teacher='all', region='main', weight=0.25
        ),
        cls=dict(soft, teacher='all', weight=0),  # on in the place of the specialists'
        round=dict(soft, teacher='round'),
        rest=dict(soft, teacher='rest'),
    ),
)
