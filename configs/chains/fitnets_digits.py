# FitNets in two stages (Romero et al. 2015), hints and then soft targets, beside both at once and soft targets alone
# python tools/chain.py configs/chains/fitnets_digits.py
folder = 'work_dirs/chains/fitnets_digits'
rows = 'docs/results/fitnets_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(
        type='kd_dense.WeightScheduleHook',
        schedules=dict(soft=dict(kind='linear', end=800, start_factor=1.0, end_factor=0.25)),
    ),
]
_soft = dict(
    config='configs/digits/fitnets-soft_gfl_r18-quarter_digits.py', teacher='{teacher}', stored=1
)
_hint = dict(type='kd_dense.FeatureImitation', region='all', weight=1)
stages = dict(
    teacher=dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6),
    hint=dict(
        config='configs/digits/fitnets-hint_gfl_r18-quarter_digits.py',
        teacher='{teacher}',
        title='stage 1: hints',
        minutes=1,
    ),
    student=dict(
        **_soft,
        options=dict(load_from='{hint}', custom_hooks=_hooks),
        title='stage 2: soft targets',
        minutes=2,
    ),
)
compare = dict(
    alone=dict(config='configs/digits/gfl_r18-quarter_digits.py', minutes=2),
    soft=dict(**_soft, options=dict(load_from=None, custom_hooks=_hooks), steps=1200, minutes=3),
    joint=dict(
        **_soft,
        options={'load_from': None, 'custom_hooks': _hooks, 'model.losses.hint': _hint},
        steps=1200,
        title='hint and soft targets at once',
        minutes=3,
    ),
)
