# A small detector learns handwritten digits from a large one, by localization distillation; some ten minutes
# python tools/chain.py configs/chains/demo.py
folder = 'work_dirs/demo'
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
side_by_side = 2
stages = dict(
    teacher=dict(title='the teacher', config='configs/digits/gfl_r18-half_digits.py', minutes=6),
    distilled=dict(
        title='the student, taught by the teacher',
        config='configs/digits/ld_gfl_r18-quarter_digits.py',
        teacher='{teacher}',
        options={'custom_hooks.DistillationPictureHook.alone': '{student}'},
        minutes=3,
    ),
)
compare = dict(
    student=dict(
        title='the student alone', config='configs/digits/gfl_r18-quarter_digits.py', minutes=3
    )
)
