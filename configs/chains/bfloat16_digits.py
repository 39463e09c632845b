# What bfloat16 on the CPU (--amp) costs in AP: the student alone and taught, each in both precisions; on digits
# python tools/chain.py configs/chains/bfloat16_digits.py
folder = 'work_dirs/chains/bfloat16_digits'
rows = 'docs/results/bfloat16_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_alone = dict(config='configs/digits/gfl_r18-quarter_digits.py', minutes=2)
_taught = dict(
    config='configs/digits/ld_gfl_r18-quarter_digits.py', teacher='{teacher}', stored=1, minutes=3
)
_hooks = dict(custom_hooks=[dict(type='kd_dense.StudentCheckpointHook')])
_half = {
    'custom_imports': dict(imports=['kd_dense', 'kd_dense.hooks'], allow_failed_imports=False),
    'optim_wrapper.type': 'kd_dense.AutocastOptimWrapper',
}
stages = dict(
    teacher=dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6),
    alone_half=dict(**_alone, options=_half, title='alone, bfloat16'),
    taught_half=dict(**_taught, options=dict(_half, **_hooks), title='taught, bfloat16'),
)
compare = dict(
    alone=dict(**_alone, title='alone, float32'),
    taught=dict(**_taught, options=_hooks, title='taught, float32'),
)
