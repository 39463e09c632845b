# A small segmentor learns handwritten digits from a large one, by structured distillation; some thirteen minutes
# python tools/chain.py configs/chains/demo_seg.py
folder = 'work_dirs/demo-seg'
# scenes that a small segmentor learns within minutes
prepare = [
    'kd-dense make-digits data/digits_seg --size 96 --digits 2 5 --height 28 64 --rotation 10 --slant 0.2 '
    '--clutter 0.3 --distractors 0 3 --stroke 0.2 0.35 --contrast 0.3 0.7'
]
environment = dict(DIGITS_SEG_ROOT='data/digits_seg')
side_by_side = 2
stages = dict(
    teacher=dict(
        title='the teacher', config='configs/digits/pspnet_r18-half_digits-seg.py', minutes=7
    ),
    distilled=dict(
        title='the student, taught by the teacher',
        config='configs/digits/structured_pspnet_r18-quarter_digits-seg.py',
        teacher='{teacher}',
        options={'custom_hooks.DistillationPictureHook.alone': '{student}'},
        minutes=5,
    ),
)
compare = dict(
    student=dict(
        title='the student alone',
        config='configs/digits/pspnet_r18-quarter_digits-seg.py',
        minutes=3,
    )
)
