# Progressive teachers, from weak to strong: one student, taught by an assistant first and then by the teacher (after
# Cao et al., "Learning lightweight object detectors via multi-teacher progressive distillation", ICML 2023, arXiv
# 2308.09105); on digits
# python tools/chain.py configs/chains/progressive_digits.py
folder = 'work_dirs/chains/progressive_digits'
rows = 'docs/results/progressive_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_small = 'configs/digits/gfl_r18-eighth_digits.py'
_hooks = dict(custom_hooks=[dict(type='kd_dense.StudentCheckpointHook')])
_taught = dict(config='configs/digits/ld_gfl_r18-quarter_digits.py', student=_small, stored=1)
stages = dict(
    teacher=dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6),
    weak=dict(config='configs/digits/gfl_r18-quarter_digits.py', minutes=2, title='weaker teacher'),
    by_weak=dict(
        **_taught, options=_hooks, teacher='{weak}', steps=600, title='by the weaker', minutes=2
    ),
    student=dict(
        **_taught,
        options=dict(_hooks, load_from='{by_weak}'),
        teacher='{teacher}',
        steps=600,
        title='then by the teacher',
        minutes=2,
    ),
)
compare = dict(
    alone=dict(config=_small, minutes=2),
    direct=dict(**_taught, options=_hooks, teacher='{teacher}', minutes=3),
)
