# Morikawa 2022: along teacher, assistant and student a hint stage, then soft targets, at each step; on digits
# python tools/chain.py configs/chains/multi_digits.py
folder = 'work_dirs/chains/multi_digits'
rows = 'docs/results/multi_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_hint = dict(config='configs/digits/fitnets-hint_gfl_r18-quarter_digits.py', minutes=1)
_soft = dict(config='configs/digits/fitnets-soft_gfl_r18-quarter_digits.py', minutes=2)
_small = dict(student='configs/digits/gfl_r18-eighth_digits.py')
stages = dict(
    teacher=dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6),
    assistant_hint=dict(**_hint, teacher='{teacher}'),
    assistant=dict(**_soft, teacher='{teacher}', options=dict(load_from='{assistant_hint}')),
    student_hint=dict(**_hint, **_small, teacher='{assistant}'),
    student=dict(
        **_soft, **_small, teacher='{assistant}', options=dict(load_from='{student_hint}')
    ),
)
compare = dict(
    alone=dict(config='configs/digits/gfl_r18-eighth_digits.py', minutes=2),
    direct_hint=dict(**_hint, **_small, teacher='{teacher}'),
    direct=dict(
        **_soft,
        **_small,
        teacher='{teacher}',
        options=dict(load_from='{direct_hint}'),
        title='direct, by hints and soft targets',
    ),
)
