# A teacher assistant between a teacher and a student of a quarter of its width (Mirzadeh et al. 2019), on digits
# python tools/chain.py configs/chains/takd_digits.py
folder = 'work_dirs/chains/takd_digits'
rows = 'docs/results/takd_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_small = 'configs/digits/gfl_r18-eighth_digits.py'
_taught = dict(
    config='configs/digits/ld_gfl_r18-quarter_digits.py',
    options=dict(custom_hooks=[dict(type='kd_dense.StudentCheckpointHook')]),
)
stages = dict(
    teacher=dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6),
    assistant=dict(**_taught, teacher='{teacher}', minutes=3),
    student=dict(**_taught, student=_small, teacher='{assistant}', minutes=2),
)
compare = dict(
    alone=dict(config=_small, minutes=2),
    direct=dict(**_taught, student=_small, teacher='{teacher}', minutes=3),
)
