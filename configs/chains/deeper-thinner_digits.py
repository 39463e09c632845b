# A student that is deeper and thinner than its teacher, an R34 under an R18, by soft targets and by FitNets with hints
# at its middle (Romero et al. 2015); on digits
# python tools/chain.py configs/chains/deeper-thinner_digits.py
folder = 'work_dirs/chains/deeper-thinner_digits'
rows = 'docs/results/deeper-thinner_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_thin = 'configs/digits/gfl_r34-eighth_digits.py'
_taught = dict(student=_thin, teacher='{teacher}')
_soft = dict(config='configs/digits/fitnets-soft_gfl_r18-quarter_digits.py', stored=1, **_taught)
stages = dict(
    teacher=dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6),
    hint=dict(
        config='configs/digits/fitnets-hint_gfl_r18-quarter_digits.py',
        **_taught,
        options={
            'model.losses.hint.stage': 'backbone.1',  # the second of four stages, before any neck
            'model.losses.hint.adapter': dict(kernel=3, norm=True, relu=True),
            'model.trains': [f'backbone.{part}' for part in ('conv1', 'bn1', 'layer1', 'layer2')],
        },
        title='stage 1: hints at the middle',
        minutes=1,
    ),
    student=dict(
        **_soft, options=dict(load_from='{hint}'), title='stage 2: soft targets', minutes=3
    ),
)
compare = dict(
    alone=dict(config=_thin, minutes=3),
    soft=dict(**_soft, options=dict(load_from=None), steps=1200, title='soft targets', minutes=4),
)
